//! Where the things under test are.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Compares native with native, to try the test programs themselves. Proves nothing about Tandem.
pub fn native_only() -> bool {
    static SAID: OnceLock<bool> = OnceLock::new();
    *SAID.get_or_init(|| {
        let native = env::var_os("TANDEM_TESTS_NATIVE").is_some_and(|value| value == "1");
        if native {
            eprintln!("*** TANDEM_TESTS_NATIVE=1: native is compared with native. NOTHING IS PROVED about Tandem. ***");
        }
        native
    })
}

pub struct Artifacts {
    pub library: PathBuf,
    pub command: PathBuf,
    pub daemon: PathBuf,
}

/// The built library and programs: `TANDEM_BIN_DIR`, else `release` or `debug` of the target directory.
pub fn artifacts() -> &'static Artifacts {
    static FOUND: OnceLock<Artifacts> = OnceLock::new();
    FOUND.get_or_init(|| {
        let folders = candidates();
        let folder = folders.iter().find(|folder| folder.join("libtandem.so").exists()).unwrap_or_else(|| {
            panic!("no libtandem.so in {folders:?}: cargo build --release -p tandem-shim -p tandem-policyd, or set TANDEM_BIN_DIR")
        });
        let here = |name: &str| folder.join(name).canonicalize().unwrap_or_else(|e| panic!("{name} in {folder:?}: {e}"));
        Artifacts { library: here("libtandem.so"), command: here("tandem"), daemon: here("tandem-policyd") }
    })
}

fn candidates() -> Vec<PathBuf> {
    if let Some(folder) = env::var_os("TANDEM_BIN_DIR") {
        return vec![folder.into()];
    }
    ["release", "debug"].map(|profile| target().join(profile)).to_vec()
}

/// The cargo target directory that this very test was built into.
pub fn target() -> PathBuf {
    if let Some(folder) = env::var_os("CARGO_TARGET_DIR") {
        return folder.into();
    }
    let this = env::current_exe().expect("own path");
    this.ancestors()
        .find(|folder| folder.join("CACHEDIR.TAG").exists())
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), Path::to_path_buf)
}
