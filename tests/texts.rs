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
            && !path.components().any(|part| part.as_os_str() == "examples");
        for line in text.lines().filter(|line| line.contains("/tmp/scache")) {
            let shown = !program || line.trim_start().starts_with("//");
            let default = line.contains("default") || line.contains("| `UNIX:/tmp/scache` |");
            assert!(!shown || default, "{}: {line}", path.display());
        }
    }
    assert!(named > 20, "{named}");
}
