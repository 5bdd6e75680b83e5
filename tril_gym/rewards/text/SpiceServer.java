// Scores captions with the classes of spice-1.0.jar, line by line, in one process that stays.
//
// A question is a line of texts between tabs: a completion, then its references. Questions come in batches; an empty
// line ends one. Then each question is answered with a line, in order: the score, or "error" and what went wrong.
//
// Needs Java 11, and spice-1.0.jar with its libraries on the class path. Only public and protected members are used.

import edu.anu.spice.Evaluation;
import edu.anu.spice.SceneGraph;
import edu.anu.spice.SpiceParser;
import edu.anu.spice.TupleSet;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;

public class SpiceServer {
    private static final int REMEMBERED = 50_000; // texts whose parses are kept

    public static void main(String[] args) throws IOException {
        PrintStream answers = new PrintStream(System.out, false, StandardCharsets.UTF_8);
        System.setOut(System.err); // whatever the libraries print is no answer
        RememberingParser parser = new RememberingParser(Integer.parseInt(args[0]));
        BufferedReader questions = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        List<List<String>> batch = new ArrayList<>();
        for (String line = questions.readLine(); line != null; line = questions.readLine()) {
            if (!line.isEmpty()) {
                batch.add(List.of(line.split("\t")));
                continue;
            }
            answer(parser, batch, answers);
            batch.clear();
        }
    }

    private static void answer(RememberingParser parser, List<List<String>> batch, PrintStream answers) {
        try {
            List<String> scores = new ArrayList<>();
            parser.learn(batch);
            for (List<String> question : batch) {
                scores.add(Double.toString(score(parser, question.get(0), question.subList(1, question.size()))));
            }
            scores.forEach(answers::println);
        } catch (RuntimeException | StackOverflowError error) { // of no memory left the process dies, and says so
            error.printStackTrace();
            String line = "error " + error.toString().replaceAll("\\s+", " ");
            batch.forEach(question -> answers.println(line));
        }
        answers.flush();
    }

    /** The F1 of the propositions of a text and those of all its references together. */
    private static double score(SpiceParser parser, String text, List<String> references) {
        SceneGraph written = parser.parseCaptions(List.of(text)).get(0);
        SceneGraph meant = parser.parseCaptions(references, List.of(references.size())).get(0);
        return new Evaluation(new TupleSet(written), new TupleSet(meant), false, true).f;
    }

    /** The official parser, which forgets the parses of the least recent texts only. */
    private static class RememberingParser extends SpiceParser {
        private final Map<String, ArrayList<ArrayList<String>>> parses =
            new LinkedHashMap<>(16, 0.75f, true) {
                @Override
                protected boolean removeEldestEntry(Map.Entry<String, ArrayList<ArrayList<String>>> eldest) {
                    return size() > REMEMBERED;
                }
            };

        RememberingParser(int threads) {
            super(null, threads, true); // no database, and synonyms are merged: both as by default
        }

        /** Parses all new texts of a batch at once, so that the threads have something to share out. */
        void learn(List<List<String>> batch) {
            Set<String> texts = new LinkedHashSet<>();
            batch.forEach(texts::addAll);
            loadTuples(new ArrayList<>(texts));
        }

        @Override
        protected Map<String, ArrayList<ArrayList<String>>> loadTuples(List<String> texts) {
            Map<String, ArrayList<ArrayList<String>>> found = new HashMap<>();
            List<String> unknown = new ArrayList<>();
            for (String text : new LinkedHashSet<>(texts)) {
                ArrayList<ArrayList<String>> parse = parses.get(text);
                if (parse == null) {
                    unknown.add(text);
                } else {
                    found.put(text, parse);
                }
            }
            if (!unknown.isEmpty()) {
                found.putAll(super.generateTuples(unknown));
                unknown.forEach(text -> parses.put(text, found.get(text)));
            }
            return found;
        }
    }
}
