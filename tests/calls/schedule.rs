//! A case: a name and the calls that it makes, one a line, as `programs/calls.c` reads them.

use std::fmt;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Case {
    pub name: String,
    pub calls: Vec<String>,
}

impl Case {
    pub fn new(name: impl Into<String>, calls: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { name: name.into(), calls: calls.into_iter().map(Into::into).collect() }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(f, "== {}", self.name)?;
        self.calls.iter().try_for_each(|call| writeln!(f, "{call}"))
    }
}

/// Reads a file of cases. `#` begins a comment; `;` on a line parts calls.
pub fn parse(text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if let Some(name) = line.strip_prefix("== ") {
            cases.push(Case::new(name, [""; 0]));
        } else if !line.is_empty() {
            let case = cases.last_mut().expect("a case's name before its calls");
            case.calls.extend(line.split(';').map(|call| call.trim().to_owned()).filter(|call| !call.is_empty()));
        }
    }
    cases
}

pub fn text_of(cases: &[Case]) -> String {
    cases.iter().map(Case::to_string).collect()
}
