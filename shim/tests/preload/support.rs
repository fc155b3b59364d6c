//! Builds the library and small C programs, and runs a command natively and preloaded.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// libtandem.so of this test's own profile, built once a run.
pub fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        // target/PROFILE/deps/TEST
        let test = std::env::current_exe().unwrap();
        let profile = test.ancestors().nth(2).unwrap();
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--package", "tandem-shim", "--target-dir"]).arg(profile.parent().unwrap());
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        assert!(
            build.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap().success(),
            "libtandem.so does not build"
        );
        let library = profile.join("libtandem.so");
        let maps = Command::new("/bin/cat").arg("/proc/self/maps").env("LD_PRELOAD", &library).output().unwrap();
        assert!(String::from_utf8_lossy(&maps.stdout).contains("libtandem.so"), "libtandem.so is not loaded");
        library
    })
}

/// A C program of `programs/`, compiled with these flags.
pub fn program(name: &str, flags: &[&str]) -> PathBuf {
    compile(name, name.to_owned(), flags)
}

/// A C file of `programs/` as a shared library.
pub fn shared_library(name: &str) -> PathBuf {
    compile(name, format!("lib{name}.so"), &["-shared", "-fPIC"])
}

fn compile(name: &str, output: String, flags: &[&str]) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/preload/programs").join(format!("{name}.c"));
    // One file a thread: tests that share a program may run at the same time.
    let output = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{:?}-{output}", std::thread::current().id()));
    let compiled = Command::new("cc")
        .args(["-D_GNU_SOURCE", "-w", "-pthread", "-o"])
        .arg(&output)
        .args(flags)
        .arg(source)
        .status();
    assert!(compiled.unwrap().success(), "{name}.c does not compile");
    output
}

pub fn run(program: impl AsRef<OsStr>, arguments: &[&str], preload: Option<&OsStr>) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).env_remove("LD_PRELOAD");
    if let Some(preload) = preload {
        command.env("LD_PRELOAD", preload);
    }
    command.output().unwrap()
}

/// Runs the command both ways; output, error output and exit status must be the same. Returns the output.
pub fn same_both_ways(program: impl AsRef<OsStr>, arguments: &[&str]) -> String {
    same_with(program, arguments, library().as_os_str())
}

pub fn same_with(program: impl AsRef<OsStr>, arguments: &[&str], preload: &OsStr) -> String {
    let native = run(&program, arguments, None);
    let preloaded = run(&program, arguments, Some(preload));
    let text = |output: &Output| {
        format!(
            "{}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    };
    assert_eq!(
        text(&native),
        text(&preloaded),
        "natively (left) and preloaded (right): {:?} {arguments:?}",
        program.as_ref()
    );
    String::from_utf8_lossy(&native.stdout).into_owned()
}
