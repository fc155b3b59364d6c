//! The header and the Rust types are one ABI; a table of another version or of too few bytes is refused.

use super::*;
use std::ffi::c_char;
use std::mem::offset_of;
use std::path::PathBuf;
use std::process::Command;

/// One line "what number" for each size, offset and constant; the C program prints the same from the header.
fn ours() -> Vec<(String, String, usize)> {
    let mut lines = Vec::new();
    macro_rules! layout {
        ($($rust:ty = $c:literal { $($field:ident),* })*) => { $(
            lines.push((format!("sizeof {}", $c), format!("sizeof(struct {})", $c), size_of::<$rust>()));
            $(lines.push((
                format!("{}.{}", $c, stringify!($field)),
                format!("offsetof(struct {}, {})", $c, stringify!($field)),
                offset_of!($rust, $field),
            ));)*
        )* };
    }
    layout! {
        Address = "tandem_address" { family, port, scope, bytes }
        Blob = "tandem_blob" { used, reserved, bytes }
        Share = "tandem_share" { bytes }
        Put = "tandem_put" {
            kind, flags, local, remote, local_offset, remote_offset, immediate, bytes, note, token
        }
        Completion = "tandem_completion" { kind, status, cookie, token, note, reserved }
        Served = "tandem_served" { address, usable, mtu, device }
        Host = "tandem_host" { version, size, context, log, hide, close_hidden }
        Provider = "tandem_provider" {
            version, size, context, name, find, list, check, stop, start, open_queue, close_queue, poll, arm, wake, open_domain,
            close_domain, register_memory, release_memory, share, adopt_share, drop_share, create, bind, set_option, prepare,
            endpoint, connect, close, describe, put, notify
        }
    }
    for (name, value) in [
        ("TANDEM_PROVIDER_VERSION", VERSION as usize),
        ("TANDEM_BLOB_BYTES", BLOB_BYTES),
        ("TANDEM_SHARE_BYTES", SHARE_BYTES),
        ("TANDEM_PUT_BYTES", PUT_BYTES as usize),
        ("TANDEM_PUTS", PUTS as usize),
        ("TANDEM_IMMEDIATE_BYTES", IMMEDIATE_BYTES as usize),
        ("TANDEM_NOTE_BITS", NOTE_BITS as usize),
        ("TANDEM_PEER_PUTS", PEER_PUTS as usize),
        ("TANDEM_PEER_FETCHES", PEER_FETCHES as usize),
        ("TANDEM_PUT", PUT as usize),
        ("TANDEM_FETCH", FETCH as usize),
        ("TANDEM_REPORT", REPORT as usize),
        ("TANDEM_NOTIFY", NOTIFY as usize),
        ("TANDEM_IMMEDIATE", IMMEDIATE as usize),
        ("TANDEM_READY", kind::READY as usize),
        ("TANDEM_CONNECTED", kind::CONNECTED as usize),
        ("TANDEM_LANDED", kind::LANDED as usize),
        ("TANDEM_NOTIFIED", kind::NOTIFIED as usize),
        ("TANDEM_DEAD", kind::DEAD as usize),
        ("TANDEM_CLOSED", kind::CLOSED as usize),
        ("TANDEM_CHANGED", kind::CHANGED as usize),
        ("TANDEM_ROOM", kind::ROOM as usize),
        ("sizeof TANDEM_PROVIDER_ENTRY", ENTRY.count_bytes() + 1),
    ] {
        lines.push((name.to_owned(), format!("({name})"), value));
    }
    lines
}

#[test]
fn the_header_has_the_same_layout() {
    let lines = ours();
    let prints: String =
        lines.iter().map(|(name, c, _)| format!("    printf(\"{name} %zu\\n\", (size_t){c});\n")).collect();
    let source =
        format!("#include <stdio.h>\n#include \"tandem_provider.h\"\nint main(void) {{\n{prints}    return 0;\n}}\n");
    let printed = compile_and_run(&source, "layout");
    let expected: String = lines.iter().map(|(name, _, value)| format!("{name} {value}\n")).collect();
    assert_eq!(printed, expected, "the header (left) and the Rust types (right)");
}

/// The C compiler compares each function's type in the header with the Rust one, spelt in C.
#[test]
fn the_header_has_the_same_types() {
    let text = include_str!("table.rs");
    let (mut checks, mut count) = (String::new(), 0);
    for (table, rust) in [("tandem_host", "pub struct Host {"), ("tandem_provider", "pub struct Provider {")] {
        let body = text.split_once(rust).unwrap().1.split_once("\n}").unwrap().0;
        let joined = body.split_whitespace().collect::<Vec<_>>().join(" ");
        for field in joined.split("pub ").filter(|field| field.contains("unsafe extern")) {
            let (name, rest) = field.split_once(':').unwrap();
            let (arguments, result) = rest.split_once("fn(").unwrap().1.rsplit_once(')').unwrap();
            let arguments: Vec<String> = arguments
                .split(',')
                .filter_map(|argument| argument.split_once(':').map(|(_, rust)| in_c(rust)))
                .collect();
            let result = if result.contains("-> i32") { "int32_t" } else { "void" };
            checks += &format!(
                "_Static_assert(_Generic(((struct {table} *)0)->{name}, {result} (*)({}): 1, default: 0), \"{name}\");\n",
                arguments.join(", "),
            );
            count += 1;
        }
    }
    let source = format!(
        "#include <stdio.h>\n#include \"tandem_provider.h\"\n{checks}\
         const struct tandem_provider *(*entry)(const struct tandem_host *) = &tandem_provider_open;\n\
         const struct tandem_provider *tandem_provider_open(const struct tandem_host *host) {{ return 0; }}\n\
         int main(void) {{ printf(\"%s\\n\", TANDEM_PROVIDER_ENTRY); return 0; }}\n"
    );
    assert_eq!(compile_and_run(&source, "types"), format!("{}\n", ENTRY.to_str().unwrap()));
    assert_eq!(count, 30, "functions that were compared");
}

fn in_c(rust: &str) -> String {
    let rust = rust.trim();
    if let Some(inner) = rust.strip_prefix("*mut ") {
        return format!("{} *", in_c(inner));
    }
    if let Some(inner) = rust.strip_prefix("*const ") {
        return format!("const {} *", in_c(inner));
    }
    match rust {
        "c_void" => "void".to_owned(),
        "c_char" => "char".to_owned(),
        "usize" => "size_t".to_owned(),
        "i32" | "u32" | "u64" => format!("{}_t", rust.replace('i', "int").replace('u', "uint")),
        "Line" => "void (*)(void *, const char *, size_t)".to_owned(),
        handle_or_struct => format!("struct tandem_{}", handle_or_struct.to_lowercase()),
    }
}

fn compile_and_run(source: &str, name: &str) -> String {
    let folder = std::env::temp_dir().join(format!("tandem-provider-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (file, program) = (folder.join("main.c"), folder.join("main"));
    std::fs::write(&file, source).unwrap();
    let include = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../include");
    let mut compile = Command::new("cc");
    compile.args(["-std=c11", "-Wall", "-Wno-unused-parameter", "-Werror", "-I"]).arg(include);
    let status = compile.arg(&file).arg("-o").arg(&program).status().expect("a C compiler is needed: cc");
    assert!(status.success(), "the header does not compile");
    let output = Command::new(&program).output().unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

unsafe extern "C" fn log(_: *mut c_void, _: u32, _: *const c_char, _: usize) {}
unsafe extern "C" fn hide(_: *mut c_void, descriptor: i32) -> i32 {
    descriptor
}
unsafe extern "C" fn close_hidden(_: *mut c_void, _: i32) {}

#[test]
fn a_table_is_used_only_if_version_and_size_allow() {
    let mut host = Host {
        version: VERSION,
        size: size_of::<Host>() as u32,
        context: std::ptr::null_mut(),
        log,
        hide,
        close_hidden,
    };
    // SAFETY: null or a whole table on this frame, here and below.
    let accept = |host: *const Host| unsafe { Host::accept(host).map(|_| ()) };
    assert_eq!(accept(std::ptr::null()), Err(Mismatch::Absent));
    assert_eq!(accept(&host), Ok(()));
    host.size += 8;
    assert_eq!(accept(&host), Ok(()), "a longer table has functions that we don't know of");
    host.size -= 16;
    assert_eq!(accept(&host), Err(Mismatch::Short { theirs: host.size, needed: size_of::<Host>() }));
    host.version = VERSION + 1;
    assert_eq!(accept(&host), Err(Mismatch::Version { theirs: VERSION + 1 }));
}

#[test]
fn a_blob_that_lies_about_its_length_has_no_content() {
    let mut blob = Blob { used: 3, reserved: 0, bytes: [7; BLOB_BYTES] };
    assert_eq!(blob.content(), Some(&[7, 7, 7][..]));
    blob.used = BLOB_BYTES as u32 + 1;
    assert_eq!(blob.content(), None);
}
