//! The C test programs, compiled once per change of their sources.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};

use crate::artifacts::target;
use crate::process::{Launch, Scratch, system_program};

pub fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("programs")
}

/// One end of a two-ended program; its passes and arguments are still to come.
#[track_caller]
pub fn end(name: &str, role: &str, scratch: &Scratch) -> Launch {
    Launch::new(role, program(name)).arg(role).arg(scratch.path())
}

/// A Python program of `programs/`, run by the system's own interpreter (not a version manager's wrapper).
pub fn python(name: &str, script: &str) -> Launch {
    Launch::new(name, system_program("python3")).env("PYTHONDONTWRITEBYTECODE", "1").arg(sources().join(script))
}

/// The compiled program of `programs/NAME.c`; with `NAME_library.c`, which it needs, if there is one.
#[track_caller]
pub fn program(name: &str) -> PathBuf {
    static BUILT: OnceLock<Mutex<HashMap<String, PathBuf>>> = OnceLock::new();
    let built = BUILT.get_or_init(Default::default);
    let mut built = built.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    built.entry(name.to_owned()).or_insert_with(|| compile(name)).clone()
}

fn headers() -> impl Iterator<Item = PathBuf> {
    let files = fs::read_dir(sources()).expect("directory of test programs").flatten().map(|entry| entry.path());
    files.filter(|path| path.extension().is_some_and(|end| end == "h"))
}

fn compile(name: &str) -> PathBuf {
    let folder = target().join("test-programs");
    fs::create_dir_all(&folder).expect("directory for test programs");
    let source = sources().join(format!("{name}.c"));
    let binary = folder.join(name);
    let age = |path: &Path| fs::metadata(path).and_then(|data| data.modified()).ok();
    assert!(source.exists(), "no source {source:?}");
    let library = sources().join(format!("{name}_library.c"));
    let sources = [source.clone(), library.clone()];
    let newest = headers().chain(sources).filter_map(|path| age(&path)).max();
    if age(&binary) > newest {
        return binary;
    }
    if library.exists() {
        let shared = |copy: &str| cc(&library, &folder, &format!("lib{name}{copy}.so"), &["-shared", "-fPIC"]);
        shared("_opened");
        let needed = shared("").display().to_string();
        return cc(&source, &folder, name, &[&needed, "-Wl,-rpath,$ORIGIN"]);
    }
    cc(&source, &folder, name, &[])
}

fn cc(source: &Path, folder: &Path, name: &str, more: &[&str]) -> PathBuf {
    let binary = folder.join(name);
    // Another test binary may compile the same program now: make it aside, then rename.
    let aside = folder.join(format!("{name}.{}", std::process::id()));
    let output = Command::new("cc")
        .args([
            "-std=gnu17",
            "-O1",
            "-g",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-Wno-unused-function",
            "-Wno-unused-variable",
        ])
        .args(["-Wno-unused-parameter", "-Wno-unused-result", "-Wno-stringop-truncation", "-pthread", "-o"])
        .arg(&aside)
        .arg(source)
        .args(more)
        .output()
        .expect("cc runs (scripts/setup installs gcc)");
    assert!(output.status.success(), "cc {source:?}:\n{}", String::from_utf8_lossy(&output.stderr));
    fs::rename(&aside, &binary).expect("placing the compiled program");
    binary
}
