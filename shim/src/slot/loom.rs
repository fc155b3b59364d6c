//! A close at once (`calls::at_once::close`) against whoever may come in between, under loom: the words are its own here, each stored and
//! looked at as there.

use std::sync::Arc;

use loom::sync::atomic::{AtomicU32, Ordering, fence};
use loom::thread;

#[derive(Default)]
struct Scene {
    /// What the number shows: 1, or nothing.
    table: AtomicU32,
    descriptors: AtomicU32,
    /// Calls asleep, a claim, forks pending.
    words: [AtomicU32; 3],
}

impl Scene {
    fn new() -> Arc<Scene> {
        let scene = Scene::default();
        scene.table.store(1, Ordering::Release);
        scene.descriptors.store(1, Ordering::Relaxed);
        Arc::new(scene)
    }

    /// True: nobody was seen, and the connection has ended.
    fn close(&self, fenced: bool) -> bool {
        if self.table.compare_exchange(1, 0, Ordering::AcqRel, Ordering::Acquire).is_err() {
            return false;
        }
        let only = self.descriptors.compare_exchange(1, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if fenced {
            fence(Ordering::SeqCst);
        }
        only && self.words.iter().all(|word| word.load(Ordering::Acquire) == 0)
    }

    /// A sleeper, a meet, or a fork. True: it goes on, for the number shows the connection (or the fork's copy says so).
    fn comes(&self, which: usize) -> bool {
        if let Some(word) = self.words.get(which) {
            word.fetch_add(1, Ordering::AcqRel);
        }
        fence(Ordering::SeqCst);
        self.table.load(Ordering::Acquire) == 1 || self.descriptors.load(Ordering::Relaxed) == 1
    }
}

fn ends_under_nobody(fenced: bool) {
    for which in 0..3 {
        loom::model(move || {
            let scene = Scene::new();
            let other = thread::spawn({
                let scene = scene.clone();
                move || scene.comes(which)
            });
            let ended = scene.close(fenced);
            let goes_on = other.join().unwrap();
            assert!(!(ended && goes_on), "the connection ended under {which}");
        });
    }
}

#[test]
fn a_close_at_once_sees_whoever_does_not_see_it() {
    ends_under_nobody(true);
}

#[test]
#[should_panic(expected = "the connection ended under")]
fn finds_a_close_without_its_fence() {
    ends_under_nobody(false);
}

/// Of two closes of one number one ends the connection.
#[test]
fn two_closes_end_it_once() {
    loom::model(|| {
        let scene = Scene::new();
        let other = thread::spawn({
            let scene = scene.clone();
            move || scene.close(true)
        });
        assert!(scene.close(true) != other.join().unwrap());
    });
}

/// `SlotRef::enter_set`: of two threads that enter two sets at once one finds the other there.
#[test]
fn two_sets_entered_at_once_are_two_for_one_of_them() {
    const LANE: u32 = 16;
    loom::model(|| {
        let word = Arc::new(AtomicU32::new(0));
        let enter = |word: &AtomicU32, mark: u32| {
            if word.compare_exchange(0, mark, Ordering::SeqCst, Ordering::Acquire).is_ok() {
                return false;
            }
            word.fetch_update(Ordering::SeqCst, Ordering::Acquire, |seen| Some(seen | mark << LANE)).unwrap();
            let seen = word.load(Ordering::Acquire);
            seen >> LANE != 0 && seen & 0xffff != 0
        };
        let other = thread::spawn({
            let word = word.clone();
            move || enter(&word, 1)
        });
        let mine = enter(&word, 2);
        assert!(mine != other.join().unwrap());
    });
}
