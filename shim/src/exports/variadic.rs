//! The variadic names that no fixed signature fits: `execl` and its kin, whose arguments are gathered into an argv on the stack
//! (the caller may be a vfork child: no malloc), and `dprintf`, whose arguments pass through untouched after the socket
//! has left. Stable Rust cannot define such functions, so their entry is in assembly; redhook's macro has no form for them.

use super::types::*;
use crate::calls::{programs, transfer};
use crate::outcome::{self, Outcome};
use crate::{fd_table, real, startup};

/// Where a variadic function's arguments after the first are: in the registers saved here, then on the caller's stack.
#[derive(Clone, Copy)]
struct Arguments {
    registers: *const usize,
    stack: *const usize,
}

#[cfg(target_arch = "x86_64")]
const REGISTERS: usize = 5;
#[cfg(target_arch = "aarch64")]
const REGISTERS: usize = 7;

impl Arguments {
    /// # Safety
    /// The caller passed more than `at` arguments.
    unsafe fn at(self, at: usize) -> usize {
        // SAFETY: as above.
        unsafe { if at < REGISTERS { *self.registers.add(at) } else { *self.stack.add(at - REGISTERS) } }
    }

    /// How many there are before the NULL that ends them.
    ///
    /// # Safety
    /// The caller passed a NULL, as exec's contract says.
    unsafe fn count(self) -> usize {
        let mut count = 0;
        // SAFETY: nothing behind the NULL is read.
        while unsafe { self.at(count) } != 0 {
            count += 1;
        }
        count
    }
}

/// Bytes of stack that an argv for these arguments takes, a multiple of 16.
unsafe extern "C" fn tandem_argv_size(registers: *const usize, stack: *const usize) -> usize {
    // SAFETY: called with what the entry saved.
    let count = unsafe { Arguments { registers, stack }.count() };
    ((count + 1) * size_of::<usize>()).next_multiple_of(16)
}

/// Fills the argv and returns what followed its NULL (execle's environment; for the others whatever is there, unused).
unsafe extern "C" fn tandem_argv_fill(argv: *mut usize, registers: *const usize, stack: *const usize) -> Strings {
    let arguments = Arguments { registers, stack };
    // SAFETY: the entry reserved as many bytes as `tandem_argv_size` said.
    unsafe {
        let count = arguments.count();
        for at in 0..=count {
            argv.add(at).write(arguments.at(at));
        }
        std::ptr::with_exposed_provenance(arguments.at(count + 1))
    }
}

unsafe extern "C" fn tandem_execl(path: *const c_char, argv: Strings, _: Strings) -> c_int {
    // SAFETY: the application's own arguments, as an array.
    unsafe { asked("execl", || programs::execv(path, argv)).unwrap_or_else(|| real::execv(path, argv)) }
}

unsafe extern "C" fn tandem_execlp(file: *const c_char, argv: Strings, _: Strings) -> c_int {
    // SAFETY: the application's own arguments, as an array.
    unsafe { asked("execlp", || programs::execvp(file, argv)).unwrap_or_else(|| real::execvp(file, argv)) }
}

unsafe extern "C" fn tandem_execle(path: *const c_char, argv: Strings, environment: Strings) -> c_int {
    // SAFETY: the application's own arguments, as an array.
    unsafe {
        asked("execle", || programs::execve(path, argv, environment))
            .unwrap_or_else(|| real::execve(path, argv, environment))
    }
}

unsafe fn asked(symbol: &'static str, handler: impl FnOnce() -> Outcome<c_int>) -> Option<c_int> {
    if startup::is_done() { outcome::settle(symbol, handler) } else { None }
}

/// Before dprintf: the socket leaves; a descriptor of ours becomes one that does not exist. Returns the number to print to.
extern "C" fn tandem_before_dprintf(fd: c_int) -> c_int {
    real::resolve_variadic();
    if fd_table::is_plain(fd) {
        return fd;
    }
    if fd_table::is_hidden(fd) {
        return -1;
    }
    match outcome::settle("dprintf", || transfer::leave::<c_int>(fd)) {
        None => fd,
        Some(_) => -1,
    }
}

#[cfg(target_arch = "x86_64")]
macro_rules! entry {
    ($symbol:ident, $target:path) => {
        /// # Safety
        /// As for the libc function of this name.
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $symbol() {
        std::arch::naked_asm!(
            ".cfi_startproc",
            "push rbp",
            ".cfi_def_cfa_offset 16",
            ".cfi_offset rbp, -16",
            "mov rbp, rsp",
            ".cfi_def_cfa_register rbp",
            // The registers as an array, above the path.
            "push r9",
            "push r8",
            "push rcx",
            "push rdx",
            "push rsi",
            "push rdi",
            "lea rdi, [rbp - 40]",
            "lea rsi, [rbp + 16]",
            "call {size}",
            "sub rsp, rax",
            "mov rdi, rsp",
            "lea rsi, [rbp - 40]",
            "lea rdx, [rbp + 16]",
            "call {fill}",
            "mov rdi, [rbp - 48]",
            "mov rsi, rsp",
            "mov rdx, rax",
            "call {target}",
            "leave",
            ".cfi_def_cfa rsp, 8",
            "ret",
            ".cfi_endproc",
            size = sym tandem_argv_size,
            fill = sym tandem_argv_fill,
            target = sym $target,
        );
        }
    };
}

#[cfg(target_arch = "aarch64")]
macro_rules! entry {
    ($symbol:ident, $target:path) => {
        /// # Safety
        /// As for the libc function of this name.
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $symbol() {
        std::arch::naked_asm!(
            ".cfi_startproc",
            "stp x29, x30, [sp, #-80]!",
            ".cfi_def_cfa_offset 80",
            ".cfi_offset x29, -80",
            ".cfi_offset x30, -72",
            "mov x29, sp",
            ".cfi_def_cfa_register x29",
            "stp x0, x1, [x29, #16]",
            "stp x2, x3, [x29, #32]",
            "stp x4, x5, [x29, #48]",
            "stp x6, x7, [x29, #64]",
            "add x0, x29, #24",
            "add x1, x29, #80",
            "bl {size}",
            "sub sp, sp, x0",
            "mov x0, sp",
            "add x1, x29, #24",
            "add x2, x29, #80",
            "bl {fill}",
            "mov x2, x0",
            "mov x1, sp",
            "ldr x0, [x29, #16]",
            "bl {target}",
            "mov sp, x29",
            "ldp x29, x30, [sp], #80",
            ".cfi_def_cfa sp, 0",
            "ret",
            ".cfi_endproc",
            size = sym tandem_argv_size,
            fill = sym tandem_argv_fill,
            target = sym $target,
        );
        }
    };
}

entry!(execl, tandem_execl);
entry!(execlp, tandem_execlp);
entry!(execle, tandem_execle);

/// Saves every register that can hold an argument, asks, restores them, and jumps: the real function finds what the caller passed.
#[cfg(target_arch = "x86_64")]
macro_rules! pass_through {
    ($symbol:ident, $before:path, $pointer:path) => {
        /// # Safety
        /// As for the libc function of this name.
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $symbol() {
        std::arch::naked_asm!(
            ".cfi_startproc",
            "sub rsp, 184",
            ".cfi_def_cfa_offset 192",
            "mov [rsp], rax",
            "mov [rsp + 8], rsi",
            "mov [rsp + 16], rdx",
            "mov [rsp + 24], rcx",
            "mov [rsp + 32], r8",
            "mov [rsp + 40], r9",
            "movaps [rsp + 48], xmm0",
            "movaps [rsp + 64], xmm1",
            "movaps [rsp + 80], xmm2",
            "movaps [rsp + 96], xmm3",
            "movaps [rsp + 112], xmm4",
            "movaps [rsp + 128], xmm5",
            "movaps [rsp + 144], xmm6",
            "movaps [rsp + 160], xmm7",
            "call {before}",
            "mov edi, eax",
            "mov rax, [rsp]",
            "mov rsi, [rsp + 8]",
            "mov rdx, [rsp + 16]",
            "mov rcx, [rsp + 24]",
            "mov r8, [rsp + 32]",
            "mov r9, [rsp + 40]",
            "movaps xmm0, [rsp + 48]",
            "movaps xmm1, [rsp + 64]",
            "movaps xmm2, [rsp + 80]",
            "movaps xmm3, [rsp + 96]",
            "movaps xmm4, [rsp + 112]",
            "movaps xmm5, [rsp + 128]",
            "movaps xmm6, [rsp + 144]",
            "movaps xmm7, [rsp + 160]",
            "add rsp, 184",
            ".cfi_def_cfa_offset 8",
            "jmp [rip + {pointer}]",
            ".cfi_endproc",
            before = sym $before,
            pointer = sym $pointer,
        );
        }
    };
}

#[cfg(target_arch = "aarch64")]
macro_rules! pass_through {
    ($symbol:ident, $before:path, $pointer:path) => {
        /// # Safety
        /// As for the libc function of this name.
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $symbol() {
        std::arch::naked_asm!(
            ".cfi_startproc",
            "stp x29, x30, [sp, #-208]!",
            ".cfi_def_cfa_offset 208",
            ".cfi_offset x29, -208",
            ".cfi_offset x30, -200",
            "stp x1, x2, [sp, #16]",
            "stp x3, x4, [sp, #32]",
            "stp x5, x6, [sp, #48]",
            "stp x7, x8, [sp, #64]",
            "stp q0, q1, [sp, #80]",
            "stp q2, q3, [sp, #112]",
            "stp q4, q5, [sp, #144]",
            "stp q6, q7, [sp, #176]",
            "bl {before}",
            "ldp x1, x2, [sp, #16]",
            "ldp x3, x4, [sp, #32]",
            "ldp x5, x6, [sp, #48]",
            "ldp x7, x8, [sp, #64]",
            "ldp q0, q1, [sp, #80]",
            "ldp q2, q3, [sp, #112]",
            "ldp q4, q5, [sp, #144]",
            "ldp q6, q7, [sp, #176]",
            "ldp x29, x30, [sp], #208",
            ".cfi_def_cfa_offset 0",
            "adrp x16, {pointer}",
            "ldr x16, [x16, :lo12:{pointer}]",
            "br x16",
            ".cfi_endproc",
            before = sym $before,
            pointer = sym $pointer,
        );
        }
    };
}

pass_through!(dprintf, tandem_before_dprintf, real::DPRINTF);
pass_through!(__dprintf_chk, tandem_before_dprintf, real::DPRINTF_CHK);
