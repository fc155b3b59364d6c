use std::os::unix::fs::FileExt;

use nix::sys::memfd::{MFdFlags, memfd_create};
use proptest::prelude::*;
use tandem_protocol::Addresses;
use tandem_protocol::registry::Identity;

use super::*;

fn file(bytes: usize, seals: i32) -> OwnedFd {
    let file = memfd_create("registry", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
    nix::unistd::ftruncate(&file, bytes as i64).unwrap();
    fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::from_bits_retain(seals))).unwrap();
    file
}

/// A sound registry's file.
fn sound() -> OwnedFd {
    let fd = file(Registry::BYTES, Registry::SEALS);
    let map = MmapOptions::new().len(Registry::BYTES).map_raw(&fd).unwrap();
    // SAFETY: a zeroed mapping of a Registry's size.
    unsafe { &*map.as_ptr().cast::<Registry>() }.initialise();
    fd
}

fn identity(port: u16) -> Identity {
    let addresses = Addresses::new(([127, 0, 0, 1], port).into(), ([127, 0, 0, 1], 80).into()).unwrap();
    Identity { pid: 1, addresses, cookie: 1, connected: false }
}

fn rows(family: &Family) -> usize {
    let mut count = 0;
    family.each_row(|_, _, _| {
        count += 1;
        ControlFlow::Continue(())
    });
    count
}

#[test]
fn only_a_sealed_registry_of_the_right_size_is_taken() {
    let refused = |fd| Family::checked([0; 16], 0, fd).err();
    assert_eq!(refused(file(Registry::BYTES - 4_096, Registry::SEALS)), Some(Reason::PolicydRefused));
    assert_eq!(refused(file(Registry::BYTES, libc::F_SEAL_GROW)), Some(Reason::PolicydRefused));
    assert_eq!(refused(file(Registry::BYTES, Registry::SEALS)), Some(Reason::PolicydRefused), "no magic");
    assert_eq!(refused(std::fs::File::open("/dev/null").unwrap().into()), Some(Reason::PolicydRefused));
    assert_eq!(refused(sound()), None);
}

#[test]
fn a_family_is_mapped_once_and_its_totals_outlive_it() {
    let mut families = Families::default();
    let fd = sound();
    let first = families.join([1; 16], fd.try_clone().unwrap(), 5, 100).unwrap();
    let second = families.join([1; 16], fd.try_clone().unwrap(), 5, 101).unwrap();
    assert!(Arc::ptr_eq(&first, &second));
    assert_eq!(families.join([1; 16], sound(), 5, 102).err(), Some(Reason::PolicydRefused), "another registry");

    let registry = first.map().unwrap();
    registry.publish(9_000, &identity(1), Reason::FewCalls);
    registry.row(9_000).tx_companion.store(7, Ordering::Relaxed);
    registry.publish(0, &identity(2), Reason::FewCalls);
    assert_eq!(rows(&first), 2);
    registry.retire(0);

    families.leave(&first, 100);
    assert_eq!(families.alive().count(), 1);
    families.leave(&second, 101);
    assert_eq!(families.alive().count(), 0);
    let kept = families.retained(Some(5));
    assert_eq!((kept.connections, kept.carried, kept.tx_companion), (2, 1, 7));
    assert_eq!(kept.reasons[usize::from(Reason::FewCalls.code())], 2);
    assert_eq!(families.retained(Some(6)).connections, 0);

    let again = families.join([1; 16], fd, 5, 100).unwrap();
    assert_eq!(families.retained(None).connections, 0, "it brought its totals along");
    assert_eq!(again.sums().connections, 2);
}

#[test]
fn only_what_the_switch_claims_is_examined_and_no_page_is_made_for_it() {
    let fd = sound();
    let family = Family::checked([0; 16], 0, fd.try_clone().unwrap()).unwrap();
    let pages = || nix::sys::stat::fstat(&fd).unwrap().st_blocks;
    let slot = SlotRef { slot: 40_000, generation: 7 };
    let addresses = identity(1).addresses;
    let meet = Meet { slot, fd: 5, addresses, cookie: 1, netns_cookie: 1, verbs: false };
    let before = pages();
    for slot in [slot, SlotRef { slot: u32::MAX, ..slot }] {
        assert!(family.examine(&Meet { slot, ..meet }).is_none());
        family.closed_what_was_shown(slot);
    }
    assert_eq!(pages(), before);

    let registry = family.map().unwrap();
    registry.claim(slot, 5, 1);
    assert!(family.examine(&Meet { fd: 6, ..meet }).is_none(), "another descriptor");
    let later = SlotRef { generation: 9, ..slot };
    assert!(family.examine(&Meet { slot: later, ..meet }).is_none(), "another connection");
    assert!(!registry.is_examined(slot));
    let examination = family.examine(&meet);
    assert!(examination.is_some() && registry.is_examined(slot));
    registry.withdraw(slot);
    assert!(registry.is_examined(slot), "it has begun");
    drop(examination);
    assert!(!registry.is_examined(slot));
    assert!(family.examine(&meet).is_none());

    assert_eq!(registry.show(slot), None, "withdrawn");
    registry.claim(slot, 5, 1);
    assert_eq!(registry.show(slot), Some((5, 1)));
    family.closed_what_was_shown(later);
    assert!(registry.is_examined(slot));
    family.closed_what_was_shown(slot);
    assert!(!registry.is_examined(slot));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A family may write anything anywhere: adding it up and listing it ends, and never panics.
    #[test]
    fn hostile_contents_are_survived(
        header in proptest::collection::vec(any::<u8>(), 0..700),
        spots in proptest::collection::vec((0..Registry::BYTES - 128, proptest::collection::vec(any::<u8>(), 128)), 0..20),
    ) {
        let fd = sound();
        let family = Family::checked([0; 16], 0, fd.try_clone().unwrap()).unwrap();
        let hostile = std::fs::File::from(fd);
        hostile.write_all_at(&header, 0).unwrap();
        for (at, bytes) in &spots {
            hostile.write_all_at(bytes, *at as u64).unwrap();
        }
        let _ = family.sums();
        family.bump_mail();
        prop_assert!(rows(&family) <= tandem_protocol::registry::ROWS);
    }
}
