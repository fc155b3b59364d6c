//! What a test says that it has proved: a line a fact, at its end, on stdout and in the file `TANDEM_TESTS_PROVED` names.

use std::fs::OpenOptions;
use std::io::Write;

use crate::artifacts::native_only;

pub struct Proof {
    test: String,
    facts: Vec<String>,
}

impl Proof {
    pub fn new(test: &str) -> Self {
        Self { test: test.into(), facts: Vec::new() }
    }

    pub fn fact(&mut self, fact: impl Into<String>) {
        self.facts.push(fact.into());
    }

    /// Prints the facts. In native mode it says that there are none.
    pub fn print(&self) {
        let word = if native_only() { "NOTHING PROVED (native mode)" } else { "proved" };
        let text: String = self.facts.iter().map(|fact| format!("{}: {word}: {fact}\n", self.test)).collect();
        print!("{text}");
        if let Some(path) = std::env::var_os("TANDEM_TESTS_PROVED") {
            let file = OpenOptions::new().create(true).append(true).open(path);
            file.and_then(|mut file| file.write_all(text.as_bytes())).expect("TANDEM_TESTS_PROVED is writable");
        }
    }
}
