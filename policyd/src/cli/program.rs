//! What a command names, and whether the switch can be preloaded into it.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, eaccess};
use object::elf::{FileHeader32, FileHeader64, PT_INTERP};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, FileKind, ReadCache, ReadRef};

/// The kernel follows as many scripts.
const MOST_SCRIPTS: usize = 5;
/// The kernel reads as much of a script's first line.
const SHEBANG: usize = 256;
/// As a shell without one has it.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Why a program is not run. The exit status is a shell's.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    NotFound(String),
    Cannot(String),
}

impl Refusal {
    pub fn status(&self) -> i32 {
        match self {
            Self::NotFound(_) => 127,
            Self::Cannot(_) => 126,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound(text) | Self::Cannot(text) => f.write_str(text),
        }
    }
}

/// Finds a command as a shell does: by PATH unless it has a slash.
pub fn resolve(command: &OsStr, search_path: Option<&OsStr>) -> Result<PathBuf, Refusal> {
    let shown = command.display();
    if command.as_bytes().contains(&b'/') {
        let path = PathBuf::from(command);
        return match executable(&path) {
            Ok(()) => Ok(path),
            Err(error) if error == nix::Error::ENOENT || error == nix::Error::ENOTDIR => {
                Err(Refusal::NotFound(format!("{shown}: no such file")))
            }
            Err(error) => Err(Refusal::Cannot(format!("{shown}: cannot be executed: {}", error.desc()))),
        };
    }
    let mut forbidden = None;
    let default = OsString::from(DEFAULT_PATH);
    for folder in std::env::split_paths(search_path.unwrap_or(&default)).filter(|_| !command.is_empty()) {
        let folder = if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder };
        let path = folder.join(command);
        match executable(&path) {
            Ok(()) => return Ok(path),
            Err(nix::Error::EACCES | nix::Error::EISDIR) => {
                forbidden.get_or_insert(path);
            }
            Err(_) => {}
        }
    }
    Err(match forbidden.filter(|path| path.is_file()) {
        Some(path) => Refusal::Cannot(format!("{}: cannot be executed: permission denied", path.display())),
        None => Refusal::NotFound(format!("{shown}: not found in PATH")),
    })
}

/// Whether the program can be preloaded with `library`. Scripts are followed to what runs them.
pub fn check(program: &Path, library: &Path, search_path: Option<&OsStr>) -> Result<(), Refusal> {
    let mut path = program.to_owned();
    for _ in 0..MOST_SCRIPTS {
        match kind(&path) {
            Err(error) => return Err(unreadable(&path, &error)),
            Ok(Kind::Elf(elf)) => return check_elf(&path, &elf, library),
            Ok(Kind::Script(next)) => path = interpreter(&path, next, search_path)?,
            // The kernel (binfmt_misc) or a shell may know what to do with it.
            Ok(Kind::Other) => return Ok(()),
        }
    }
    Err(Refusal::Cannot(format!("{}: too many scripts that run scripts", program.display())))
}

enum Kind {
    Elf(Elf),
    Script(Shebang),
    Other,
}

#[derive(Debug, PartialEq, Eq)]
struct Elf {
    machine: Machine,
    /// PT_INTERP: the dynamic loader. `None`: nobody loads a library into it.
    loader: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Machine {
    bits: u8,
    code: object::elf::Machine,
    big_endian: bool,
}

struct Shebang {
    interpreter: OsString,
    argument: Option<OsString>,
}

fn kind(path: &Path) -> io::Result<Kind> {
    let mut start = Vec::with_capacity(SHEBANG);
    File::open(path)?.take(SHEBANG as u64).read_to_end(&mut start)?;
    if let Some(line) = start.strip_prefix(b"#!") {
        return Ok(shebang(line).map_or(Kind::Other, Kind::Script));
    }
    if start.starts_with(b"\x7fELF") { Ok(elf(path)?.map_or(Kind::Other, Kind::Elf)) } else { Ok(Kind::Other) }
}

fn shebang(line: &[u8]) -> Option<Shebang> {
    let line = line.split(|&b| b == b'\n').next()?.trim_ascii();
    let blank = |b: &u8| *b == b' ' || *b == b'\t';
    let (interpreter, argument) = match line.iter().position(blank) {
        Some(at) => line.split_at(at),
        None => (line, &b""[..]),
    };
    let argument = argument.trim_ascii();
    (!interpreter.is_empty()).then(|| Shebang {
        interpreter: OsStr::from_bytes(interpreter).to_owned(),
        argument: (!argument.is_empty()).then(|| OsStr::from_bytes(argument).to_owned()),
    })
}

/// What runs a script: its interpreter, or through env the program that env finds.
fn interpreter(script: &Path, shebang: Shebang, search_path: Option<&OsStr>) -> Result<PathBuf, Refusal> {
    let path = PathBuf::from(&shebang.interpreter);
    if executable(&path).is_err() {
        let text = format!("{}: its interpreter {} cannot be executed", script.display(), path.display());
        return Err(Refusal::Cannot(text));
    }
    let through_env = path.file_name() == Some(OsStr::new("env"));
    let named = shebang.argument.as_deref().map(OsStrExt::as_bytes).unwrap_or_default();
    let named = named.strip_prefix(b"-S").map_or(named, <[u8]>::trim_ascii);
    let named = named.split(|&b| b == b' ' || b == b'\t').next().unwrap_or_default();
    let plain = !named.is_empty() && !named.starts_with(b"-") && !named.contains(&b'=');
    if through_env && plain {
        return Ok(resolve(OsStr::from_bytes(named), search_path).unwrap_or(path));
    }
    Ok(path)
}

fn check_elf(path: &Path, elf: &Elf, library: &Path) -> Result<(), Refusal> {
    let cannot = |why: &str| Err(Refusal::Cannot(format!("{}: {why}", path.display())));
    let status = fs::metadata(path).map_err(|error| unreadable(path, &error))?;
    if status.mode() & nix::libc::S_ISUID != 0 {
        return cannot("is setuid: the system ignores preloaded libraries in it; run it without tandem");
    }
    if status.mode() & nix::libc::S_ISGID != 0 && status.mode() & nix::libc::S_IXGRP != 0 {
        return cannot("is setgid: the system ignores preloaded libraries in it; run it without tandem");
    }
    if has_capabilities(path) {
        return cannot("has file capabilities: the system ignores preloaded libraries in it; run it without tandem");
    }
    let ours = self::elf(library).ok().flatten();
    if let Some(ours) = ours
        && ours.machine != elf.machine
    {
        return cannot("is built for another architecture than libtandem.so; run it without tandem");
    }
    match &elf.loader {
        None => cannot("is statically linked: nothing can be preloaded into it; run it without tandem"),
        Some(loader) if loader.as_os_str().as_bytes().windows(8).any(|part| part == b"/ld-musl") => {
            cannot("is built for another C library (musl) than libtandem.so; run it without tandem")
        }
        Some(_) => Ok(()),
    }
}

fn has_capabilities(path: &Path) -> bool {
    let Ok(path) = std::ffi::CString::new(path.as_os_str().as_bytes()) else { return false };
    // SAFETY: zero-terminated strings in, only the length asked for.
    unsafe { libc::getxattr(path.as_ptr(), c"security.capability".as_ptr(), std::ptr::null_mut(), 0) > 0 }
}

/// `Ok(None)`: it only begins as one.
fn elf(path: &Path) -> io::Result<Option<Elf>> {
    let file = ReadCache::new(File::open(path)?);
    Ok(match FileKind::parse(&file) {
        Ok(FileKind::Elf64) => headers::<FileHeader64<Endianness>, _>(&file, 64),
        Ok(FileKind::Elf32) => headers::<FileHeader32<Endianness>, _>(&file, 32),
        _ => None,
    })
}

fn headers<'data, H: FileHeader<Endian = Endianness>, R: ReadRef<'data>>(file: R, bits: u8) -> Option<Elf> {
    let header = H::parse(file).ok()?;
    let endian = header.endian().ok()?;
    let machine = Machine { bits, code: header.e_machine(endian), big_endian: endian == Endianness::Big };
    let segments = header.program_headers(endian, file).ok()?;
    let loader = segments.iter().find(|segment| segment.p_type(endian) == PT_INTERP);
    let loader = loader.and_then(|segment| segment.data(endian, file).ok()).map(|name| {
        let name = name.split(|&b| b == 0).next().unwrap_or_default();
        PathBuf::from(OsStr::from_bytes(name))
    });
    Some(Elf { machine, loader })
}

fn executable(path: &Path) -> nix::Result<()> {
    eaccess(path, AccessFlags::X_OK)?;
    if path.is_dir() { Err(nix::Error::EISDIR) } else { Ok(()) }
}

/// A program may be executable without being readable: then nobody knows what it is.
fn unreadable(path: &Path, error: &io::Error) -> Refusal {
    Refusal::Cannot(format!("{}: cannot be looked into: {error}", path.display()))
}

#[cfg(test)]
mod tests;
