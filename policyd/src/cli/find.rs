//! Where the parts of an installation are, seen from the `tandem` command: in a prefix, or in a cargo target folder.

use std::path::{Path, PathBuf};

pub const LIBRARY: &str = "libtandem.so";
pub const DAEMON: &str = "tandem-policyd";

/// Folders that may hold the switch, seen from the command's own.
pub fn library_folders(own: &Path) -> Vec<PathBuf> {
    let multiarch = format!("{}-linux-gnu", std::env::consts::ARCH);
    let lib = own.join("../lib");
    vec![
        own.to_owned(),
        lib.clone(),
        lib.join("tandem"),
        lib.join(&multiarch),
        lib.join(&multiarch).join("tandem"),
        own.join("../lib64"),
        own.join("../lib64/tandem"),
        // A cargo target folder where the library was built only as another crate's dependency; or that folder's `deps`.
        own.join("deps"),
        own.join(".."),
    ]
}

pub fn library(own: &Path) -> Option<PathBuf> {
    first(library_folders(own), LIBRARY)
}

pub fn daemon(own: &Path) -> Option<PathBuf> {
    let folders = ["", "../sbin", "../libexec", "../libexec/tandem", "../lib/tandem", ".."];
    first(folders.map(|folder| own.join(folder)).to_vec(), DAEMON)
}

/// The folder of the running command.
pub fn own_folder() -> Option<PathBuf> {
    std::env::current_exe().ok()?.parent().map(Path::to_owned)
}

fn first(folders: Vec<PathBuf>, name: &str) -> Option<PathBuf> {
    folders.into_iter().map(|folder| folder.join(name)).find(|path| path.is_file())?.canonicalize().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_a_prefix_and_in_a_target_folder() {
        let top = tempfile::tempdir().unwrap();
        let put = |path: &str| {
            let path = top.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "").unwrap();
            path.canonicalize().unwrap()
        };
        put("usr/bin/tandem");
        assert_eq!(library(&top.path().join("usr/bin")), None);
        let found = put(&format!("usr/lib/{}-linux-gnu/{LIBRARY}", std::env::consts::ARCH));
        assert_eq!(library(&top.path().join("usr/bin")), Some(found));
        let nearer = put("usr/lib/tandem/libtandem.so");
        assert_eq!(library(&top.path().join("usr/bin")), Some(nearer));
        let daemon_path = put("usr/sbin/tandem-policyd");
        assert_eq!(daemon(&top.path().join("usr/bin")), Some(daemon_path));

        put("target/debug/tandem");
        let deps = put("target/debug/deps/libtandem.so");
        assert_eq!(library(&top.path().join("target/debug")), Some(deps));
        let beside = put("target/debug/libtandem.so");
        assert_eq!(library(&top.path().join("target/debug")), Some(beside.clone()));
        std::fs::remove_file(top.path().join("target/debug/deps/libtandem.so")).unwrap();
        assert_eq!(library(&top.path().join("target/debug/deps")), Some(beside));
    }
}
