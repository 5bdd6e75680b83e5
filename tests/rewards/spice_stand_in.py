"""A stand-in for pycocoevalcap whose SPICE parses a toy language; needs the Java compiler.

A text is a row of propositions: "dog" is an object, "dog:brown" one with an attribute, "dog>chase>ball" a relation.
The parser is always a stand-in. The scorer is that of the real spice-1.0.jar, or a stand-in without synonyms.
"""

import shutil
import subprocess
import zipfile
from importlib.util import find_spec
from pathlib import Path

from tril_gym.rewards.text.official_spice import CORENLP

PARSER = """
package edu.anu.spice;
import java.util.*;
public class SpiceParser {
    private int parsed = 0;
    public SpiceParser(String cache, int threads, Boolean merge) throws RuntimeException {
        if (cache != null || !merge) throw new RuntimeException("not as by default");
        System.out.println("a library says hello on the standard output");
    }
    protected Map<String, ArrayList<ArrayList<String>>> loadTuples(List<String> input) {
        throw new RuntimeException("parses are not remembered");
    }
    protected Map<String, ArrayList<ArrayList<String>>> generateTuples(List<String> input) {
        Map<String, ArrayList<ArrayList<String>>> parses = new HashMap<>();
        for (String text : input) {
            if (text.equals("crash")) throw new IllegalStateException("no parse\\nof this");
            if (text.equals("exit")) System.exit(3);
            parsed++;
            ArrayList<ArrayList<String>> tuples = new ArrayList<>();
            for (String word : text.split(" ")) {
                String[] parts = word.replace("PARSED", "n" + parsed).split("[:>]");
                if (parts.length == 3) { String verb = parts[1]; parts[1] = parts[2]; parts[2] = verb; }
                tuples.add(new ArrayList<>(Arrays.asList(parts)));
            }
            parses.put(text, tuples);
        }
        return parses;
    }
    public List<SceneGraph> parseCaptions(List<String> input, List<Integer> chunks) {
        Map<String, ArrayList<ArrayList<String>>> parses = loadTuples(input);
        SceneGraph scene = new SceneGraph(SYNONYMS, true);
        for (String text : input) parses.get(text).forEach(scene::addTuple);
        return List.of(scene);
    }
    public List<SceneGraph> parseCaptions(List<String> input) {
        return parseCaptions(input, List.of(1));
    }
    static final edu.cmu.meteor.aligner.SynonymDictionary SYNONYMS = synonyms();
    static edu.cmu.meteor.aligner.SynonymDictionary synonyms() {
        try {
            String folder = edu.cmu.meteor.util.Constants.DEFAULT_SYN_DIR_URL.toString();
            return new edu.cmu.meteor.aligner.SynonymDictionary(new java.net.URL(folder + "/english.exceptions"),
                new java.net.URL(folder + "/english.synsets"), new java.net.URL(folder + "/english.relations"));
        } catch (java.io.IOException error) {
            throw new RuntimeException(error);
        }
    }
}
"""
SCORER = {
    "edu/cmu/meteor/aligner/SynonymDictionary": """package edu.cmu.meteor.aligner;
public class SynonymDictionary {
    public SynonymDictionary(java.net.URL a, java.net.URL b, java.net.URL c) throws java.io.IOException {}
}""",
    "edu/cmu/meteor/util/Constants": """package edu.cmu.meteor.util;
public class Constants {
    public static final java.net.URL DEFAULT_SYN_DIR_URL = Constants.class.getResource("Constants.class");
}""",
    "edu/anu/spice/SceneGraph": """package edu.anu.spice;
public class SceneGraph {
    java.util.Set<Object> tuples = new java.util.HashSet<>();
    public SceneGraph(edu.cmu.meteor.aligner.SynonymDictionary synonyms, boolean merge) {}
    public void addTuple(java.util.ArrayList<String> tuple) {
        for (int i = 0; i < Math.min(2, tuple.size()); i++)
            if (i == 0 || tuple.size() == 3) tuples.add(java.util.List.of(tuple.get(i)));
        tuples.add(tuple);
    }
}""",
    "edu/anu/spice/TupleSet": """package edu.anu.spice;
public class TupleSet {
    java.util.Set<Object> tuples;
    public TupleSet(SceneGraph graph) { tuples = graph.tuples; }
}""",
    "edu/anu/spice/Evaluation": """package edu.anu.spice;
public class Evaluation {
    public double f;
    public Evaluation(TupleSet a, TupleSet b, boolean allowNan, boolean synonyms) {
        java.util.Set<Object> both = new java.util.HashSet<>(a.tuples);
        both.retainAll(b.tuples);
        f = 2.0 * both.size() / (a.tuples.size() + b.tuples.size());
    }
}""",
}


def real_scorer():
    """Return the folder of the real pycocoevalcap, None where it is not installed."""
    spec = find_spec("pycocoevalcap")
    folders = [Path(folder) for folder in spec.submodule_search_locations or []] if spec else []
    return next((folder for folder in folders if (folder / "spice" / "spice-1.0.jar").is_file()), None)


def build(folder, real):
    """Make a package pycocoevalcap in a folder; `real` is the folder of a real scorer to copy, or None."""
    spice = folder / "pycocoevalcap" / "spice"
    library, classes = spice / "lib", folder / "classes"
    library.mkdir(parents=True)
    (folder / "pycocoevalcap" / "__init__.py").touch()
    for jar in CORENLP:
        zipfile.ZipFile(library / jar, "w").writestr("empty", "")
    if real is not None:
        for jar in (real / "spice" / "lib").glob("*.jar"):
            shutil.copy(jar, library)
        shutil.copy(real / "tokenizer" / "stanford-corenlp-3.4.1.jar", library)  # contains the graph classes
    sources = {"edu/anu/spice/SpiceParser": PARSER} | (SCORER if real is None else {})
    files = []
    for name, source in sources.items():
        files.append(folder / "sources" / f"{name}.java")
        files[-1].parent.mkdir(parents=True, exist_ok=True)
        files[-1].write_text(source)
    jars = f"{real}/spice/spice-1.0.jar:{library}/*" if real else "."
    subprocess.run(["javac", "-nowarn", "-d", classes, "-cp", jars, *files], check=True, capture_output=True, text=True)
    with zipfile.ZipFile(spice / "spice-1.0.jar", "w") as jar:
        for path in classes.rglob("*.class"):
            jar.write(path, path.relative_to(classes))
        if real is not None:
            old = zipfile.ZipFile(real / "spice" / "spice-1.0.jar")
            kept = [n for n in old.namelist() if n.startswith("edu/anu") and n.endswith(".class") and "Parser" not in n]
            for name in kept:
                jar.writestr(name, old.read(name))
    return folder
