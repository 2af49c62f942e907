//! Texts that users read must not mislead them.

use std::fs;
use std::path::{Path, PathBuf};

/// Collects all text and example files below a directory.
fn texts(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a directory of ours") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let endings = [".md", ".example", ".lua", ".mjs", ".h", ".c", ".rs"];
        let tests =
            ["tests", "tests.rs", "target"].contains(&name.as_str()) || name.ends_with(".test.mjs");
        if path.is_dir() && !tests {
            texts(&path, found);
        } else if endings.iter().any(|ending| name.ends_with(ending)) && !tests {
            found.push(path);
        }
    }
}

/// A service with a private `/tmp` does not find a socket there, and any user may listen there
/// first.
#[test]
fn no_document_or_example_has_a_socket_in_tmp() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = vec![root.join("README.md")];
    for dir in ["bins", "docs", "core", "posix"] {
        texts(&root.join(dir), &mut found);
    }
    assert!(found.len() > 50, "{found:?}");
    let mut named = 0;
    for path in found {
        let text = fs::read_to_string(&path).expect("a text");
        named += text.matches("/run/distcache/scache").count();
        // The default in a program is documented by the program.
        let program = path.extension().is_some_and(|ending| ending == "rs")
            && !path.starts_with(root.join("posix/examples"));
        for line in text.lines().filter(|line| line.contains("/tmp/scache")) {
            let line = line.trim_start();
            let shown = !program || line.starts_with("//") || line.starts_with("example:");
            let default = line.contains("default") || line.contains("| `UNIX:/tmp/scache` |");
            assert!(!shown || default, "{}: {line}", path.display());
        }
    }
    assert!(named > 20, "{named}");
}

/// The figures that are counted, and those that are told, are the same.
#[test]
fn the_table_of_instructions_has_the_counted_figures() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name| fs::read_to_string(root.join(name)).expect("a text");
    let (counted, told) = (read("tests/instructions.txt"), read("docs/testing.md"));
    for (case, words) in [
        ("get", "GET at the server"),
        ("get_of_16", "GET, one of 16 that arrive together"),
        ("add_and_evict", "ADD to a full table"),
        ("proxied_get", "GET through the proxy"),
        ("proxied_get_sealed", "GET through the proxy, of a sealed session of 200 bytes"),
        ("proxied_add", "ADD through the proxy"),
        ("proxied_add_sealed", "ADD through the proxy, sealed"),
    ] {
        let mut figures = counted.lines().filter_map(|line| line.split_once(' '));
        let (_, figure) = figures.find(|(name, _)| *name == case).expect("a counted case");
        let row = told.lines().find_map(|line| line.strip_prefix(&format!("| {words} | ")));
        let row = row.and_then(|row| row.strip_suffix(" |")).expect("a row of the table");
        assert_eq!(row.replace(',', ""), figure, "{words}");
    }
}

/// As many planted faults are said to be found as the simulator's own list has.
#[test]
fn the_found_faults_are_those_that_the_simulator_lists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name| fs::read_to_string(root.join(name)).expect("a text");
    let list = read("tests/simulator/lib.rs");
    let is_row = |line: &&str| line.starts_with("//! | ") && line.contains("` | ");
    let rows = list.lines().filter(is_row).count();
    let told = format!("the simulator finds {rows}.");
    assert!(read("docs/testing.md").contains(&told), "{told}");
}
