//! How libtandem.so is linked.

// Runs in cargo, not in a preloaded program.
#![allow(clippy::disallowed_types)]

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for argument in [
        "-Wl,-soname,libtandem.so",
        // Hooks may be on the stack of any thread: the library is never unloaded.
        "-Wl,-z,nodelete",
        // Every symbol is bound at load: a hook never enters the dynamic linker from a signal handler or a vfork child.
        "-Wl,-z,now",
    ] {
        println!("cargo::rustc-link-arg-cdylib={argument}");
    }
    link_libc_alone();
}

/// The C compiler's `libc.so` is a linker script that adds the dynamic linker itself to what the library needs, for the sake of
/// `__tls_get_addr`. It is in every process anyway, so the script is replaced by one without it: the library needs
/// libc and libgcc_s alone, whatever the dynamic linker is called.
fn link_libc_alone() {
    let (Some(shared), Some(rest)) = (compiler_file("libc.so.6"), compiler_file("libc_nonshared.a")) else { return };
    let Some(folder) = std::env::var_os("OUT_DIR").map(PathBuf::from) else { return };
    let script = format!("GROUP ( {} {} )\n", shared.display(), rest.display());
    if std::fs::write(folder.join("libc.so"), script).is_ok() {
        println!("cargo::rustc-link-arg-cdylib=-L{}", folder.display());
        println!("cargo::rustc-link-arg-cdylib=-Wl,--allow-shlib-undefined");
        println!("cargo::rustc-link-arg-cdylib=-Wl,-z,undefs");
    }
}

fn compiler_file(name: &str) -> Option<PathBuf> {
    // Only for the machine that builds: a cross build keeps its own linker's script.
    if std::env::var("HOST") != std::env::var("TARGET") {
        return None;
    }
    let output = Command::new("cc").arg(format!("-print-file-name={name}")).output().ok()?;
    let path = Path::new(std::str::from_utf8(&output.stdout).ok()?.trim()).canonicalize().ok()?;
    path.is_absolute().then_some(path)
}
