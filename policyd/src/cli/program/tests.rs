use std::os::unix::fs::PermissionsExt;

use super::*;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn put(&self, name: &str, contents: &[u8], mode: u32) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, contents).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }
}

/// The test binary itself: dynamic, and of the right architecture.
fn own() -> PathBuf {
    std::env::current_exe().unwrap()
}

fn why(path: &Path) -> String {
    check(path, &own(), None).unwrap_err().to_string()
}

#[test]
fn a_dynamic_program_is_taken() {
    assert_eq!(check(&own(), &own(), None), Ok(()));
}

#[test]
fn setuid_and_setgid_are_refused() {
    let folder = Folder::new();
    let program = fs::read("/bin/true").unwrap();
    assert!(why(&folder.put("u", &program, 0o4755)).contains("is setuid"));
    assert!(why(&folder.put("g", &program, 0o2755)).contains("is setgid"));
    assert_eq!(check(&folder.put("p", &program, 0o755), &own(), None), Ok(()));
}

#[test]
fn a_static_program_is_refused() {
    let folder = Folder::new();
    let mut program = fs::read("/bin/true").unwrap();
    // Without its PT_INTERP a program is what a static one is.
    let first = usize::from(u16::from_le_bytes([program[0x20], program[0x21]]));
    let count = usize::from(u16::from_le_bytes([program[0x38], program[0x39]]));
    for at in (0..count).map(|n| first + n * 56) {
        if program[at] == 3 {
            program[at] = 0;
        }
    }
    let refusal = check(&folder.put("s", &program, 0o755), &own(), None).unwrap_err();
    assert!(refusal.to_string().contains("statically linked"));
    assert_eq!(refusal.status(), 126);
}

#[test]
fn another_architecture_is_refused() {
    let folder = Folder::new();
    let mut program = fs::read("/bin/true").unwrap();
    program[0x12] ^= 0xff;
    assert!(why(&folder.put("a", &program, 0o755)).contains("another architecture"));
}

#[test]
fn scripts_are_followed() {
    let folder = Folder::new();
    let program = fs::read("/bin/true").unwrap();
    let setuid = folder.put("u", &program, 0o4755);
    let direct = folder.put("direct", format!("#! {} -x\n", setuid.display()).as_bytes(), 0o755);
    assert!(why(&direct).contains("is setuid"));
    let twice = folder.put("twice", format!("#!{}\n", direct.display()).as_bytes(), 0o755);
    assert!(why(&twice).contains("is setuid"));
    let by_env = folder.put("env", b"#!/usr/bin/env u\n", 0o755);
    let refusal = check(&by_env, &own(), Some(folder.0.path().as_os_str()));
    assert!(refusal.unwrap_err().to_string().contains("is setuid"));
    assert_eq!(check(&folder.put("sh", b"#!/bin/sh\n", 0o755), &own(), None), Ok(()));
    assert_eq!(check(&folder.put("bare", b"echo hello\n", 0o755), &own(), None), Ok(()));
    assert!(why(&folder.put("lost", b"#!/nonexistent/x\n", 0o755)).contains("interpreter"));
    let own_tail = folder.0.path().join("loop");
    let circle = folder.put("loop", format!("#!{}\n", own_tail.display()).as_bytes(), 0o755);
    assert!(why(&circle).contains("too many scripts"));
}

#[test]
fn commands_are_found_as_shells_find_them() {
    let folder = Folder::new();
    let plain = folder.put("plain", b"x", 0o755);
    folder.put("letters", b"x", 0o644);
    let path = Some(folder.0.path().as_os_str());
    assert_eq!(resolve(OsStr::new("plain"), path), Ok(plain.clone()));
    assert_eq!(resolve(plain.as_os_str(), None), Ok(plain));
    assert_eq!(resolve(OsStr::new("letters"), path).unwrap_err().status(), 126);
    assert_eq!(resolve(OsStr::new("nothing"), path).unwrap_err().status(), 127);
    assert_eq!(resolve(OsStr::new("/nonexistent/x"), path).unwrap_err().status(), 127);
    assert_eq!(resolve(OsStr::new("/tmp"), path).unwrap_err().status(), 126);
    assert_eq!(resolve(OsStr::new(""), path).unwrap_err().status(), 127);
}

#[test]
fn torn_files_are_no_panic() {
    let folder = Folder::new();
    let program = fs::read("/bin/true").unwrap();
    for length in [4, 5, 16, 63, 64, 100, 600] {
        let _ = check(&folder.put("torn", &program[..length], 0o755), &own(), None);
    }
    let _ = check(&folder.put("empty", b"", 0o755), &own(), None);
    let _ = check(&folder.put("bang", b"#!", 0o755), &own(), None);
    let _ = check(&folder.put("bangs", b"#!   \n", 0o755), &own(), None);
}
