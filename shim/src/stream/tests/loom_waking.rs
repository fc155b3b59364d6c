//! News, mail, and several sleepers on one direction, under loom. Every sleeper has a wake (and so a lock) to itself: a lock
//! that they shared would order what nothing orders.

// Loom's own panics when it is dropped after a deadlock.
use std::sync::Arc;

use super::mail::Mail;
use super::news::{self, Bits};
use super::sleepers::called;
use super::*;

/// Wake ids.
const SET: u32 = 0;
const FIRST: u32 = 1;
const SECOND: u32 = 2;

#[derive(Default)]
struct Sleeper {
    counter: AtomicU32,
    woken: AtomicU32,
    signalled: Mutex<bool>,
    signal: Condvar,
}

#[derive(Default)]
struct Scene {
    words: Words,
    news: [Bits; 1],
    mail: Mail<1>,
    changes: [AtomicU32; 2],
    list: Mutex<Sleepers>,
    sleepers: [Sleeper; 3],
}

impl Scene {
    /// A direction that the set watches.
    fn watched() -> Arc<Scene> {
        let scene = Arc::new(Scene::default());
        let mut list = scene.list.lock().unwrap();
        list.watch(Some(SET));
        list.name(&scene.port(), Word::RSleep);
        drop(list);
        scene
    }

    fn port(&self) -> LocalPort<'_> {
        // SAFETY: this port's memory is never reached: nothing is copied.
        unsafe { LocalPort::new(&self.words, std::ptr::null_mut(), Place::NONE, SMALL, BIG) }
    }

    fn sleeper(&self, id: u32) -> &Sleeper {
        &self.sleepers[id as usize]
    }

    // ---- the other end ----

    /// As the peer does after each store.
    fn wake(&self, word: Word) {
        let Some(id) = called(&self.port(), word, || news::tell(&self.news, 0)) else { return };
        let counter = self.sleeper(id).counter.load(Ordering::Acquire);
        if counter % 2 == 1 && self.sleeper(id).woken.swap(counter, Ordering::Relaxed) != counter {
            self.signal(id);
        }
    }

    fn publish(&self, word: Word, sleep: Word, values: u64) {
        for value in 1..=values {
            self.port().store(word, value);
            self.wake(sleep);
        }
    }

    // ---- this end ----

    fn signal(&self, id: u32) {
        *self.sleeper(id).signalled.lock().unwrap() = true;
        self.sleeper(id).signal.notify_all();
    }

    fn rouse(&self, id: u32) {
        if self.sleeper(id).counter.load(Ordering::Acquire) % 2 == 1 {
            self.signal(id);
        }
    }

    fn lie_down(&self, id: u32) {
        self.sleeper(id).counter.fetch_or(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    fn sleep(&self, id: u32) {
        let mut signalled = self.sleeper(id).signalled.lock().unwrap();
        while !std::mem::take(&mut *signalled) {
            signalled = self.sleeper(id).signal.wait(signalled).unwrap();
        }
    }

    fn rise(&self, id: u32) {
        self.sleeper(id).counter.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The set waits until `look` has seen all, and looks only when there is news.
    fn set_waits(&self, mut look: impl FnMut() -> bool) {
        loop {
            let late = faults::planted(Fault::ClearedLate);
            let told = if late { news::peek(&self.news, 0) } else { news::take(&self.news, 0, 1) };
            let done = told != 0 && look();
            if late {
                news::take(&self.news, 0, 1);
            }
            if done {
                return;
            }
            let early = faults::planted(Fault::LookedEarly).then(|| news::peek(&self.news, 0));
            self.lie_down(SET);
            if early.unwrap_or_else(|| news::peek(&self.news, 0)) == 0 {
                self.sleep(SET);
            }
            self.rise(SET);
        }
    }

    fn stand(&self, id: u32) -> bool {
        let mut list = self.list.lock().unwrap();
        let added = list.add(id);
        list.name(&self.port(), Word::RSleep);
        added
    }

    fn produced(&self) -> u64 {
        let _list = self.list.lock().unwrap();
        self.port().load(Word::Produced)
    }

    fn leave(&self, id: u32, added: bool) {
        let mut list = self.list.lock().unwrap();
        list.leave(&self.port(), (Word::RSleep, Word::Produced), id, added, |other| self.rouse(other));
    }

    /// A call that ends by EINTR: whatever has come, it reads nothing.
    fn interrupted(&self, id: u32) {
        let added = self.stand(id);
        self.lie_down(id);
        self.produced();
        self.rise(id);
        self.leave(id, added);
    }

    /// A call that waits for bytes.
    fn reads(&self, id: u32) {
        while self.produced() == 0 {
            let added = self.stand(id);
            self.lie_down(id);
            if self.produced() == 0 {
                self.sleep(id);
            }
            self.rise(id);
            self.leave(id, added);
        }
    }
}

fn spawn(scene: &Arc<Scene>, run: impl FnOnce(&Scene) + 'static) -> thread::JoinHandle<()> {
    let scene = scene.clone();
    thread::spawn(move || run(&scene))
}

/// A set alone learns of each byte, also of those for which the bit stood already.
fn news_of_bytes() {
    model(3, || {
        let scene = Scene::watched();
        let peer = spawn(&scene, |scene| scene.publish(Word::Produced, Word::RSleep, 2));
        scene.set_waits(|| scene.port().load(Word::Produced) == 2);
        peer.join().unwrap();
    });
}

/// Two threads of the peer tell of one connection, of one direction each.
fn news_of_both_directions() {
    model(3, || {
        let scene = Scene::watched();
        scene.port().store(Word::WSleep, u64::from(SET) + 1);
        let bytes = spawn(&scene, |scene| scene.publish(Word::Produced, Word::RSleep, 1));
        let room = spawn(&scene, |scene| scene.publish(Word::Consumed, Word::WSleep, 1));
        scene.set_waits(|| scene.port().load(Word::Produced) == 1 && scene.port().load(Word::Consumed) == 1);
        bytes.join().unwrap();
        room.join().unwrap();
    });
}

/// A thread stands before the set, is named, and leaves without reading.
fn news_beside_a_thread() {
    model(3, || {
        let scene = Scene::watched();
        let peer = spawn(&scene, |scene| scene.publish(Word::Produced, Word::RSleep, 1));
        let thread = spawn(&scene, |scene| scene.interrupted(FIRST));
        scene.set_waits(|| scene.port().load(Word::Produced) == 1);
        peer.join().unwrap();
        thread.join().unwrap();
    });
}

/// Of two threads one leaves without reading.
fn two_threads() {
    model(3, || {
        let scene = Arc::new(Scene::default());
        let peer = spawn(&scene, |scene| scene.publish(Word::Produced, Word::RSleep, 1));
        let thread = spawn(&scene, |scene| scene.interrupted(FIRST));
        scene.reads(SECOND);
        peer.join().unwrap();
        thread.join().unwrap();
    });
}

/// Changes of `connections` connections, `times` each, posted to a set that has room for one letter.
fn mail(connections: usize, times: u32) {
    model(3, move || {
        let scene = Arc::new(Scene::default());
        let poster = spawn(&scene, move |scene| {
            for (letter, change) in (1..).zip(&scene.changes[..connections]) {
                for value in 1..=times {
                    change.store(value, Ordering::Release);
                    scene.mail.post(letter);
                    fence(Ordering::SeqCst);
                    scene.rouse(SET);
                }
            }
        });
        let mut seen = [0; 2];
        loop {
            if scene.mail.any() {
                let (letters, all) = scene.mail.take();
                for (letter, (seen, change)) in (1..).zip(seen.iter_mut().zip(&scene.changes)) {
                    if all || letters.contains(&letter) {
                        *seen = change.load(Ordering::Acquire);
                    }
                }
            }
            if seen[..connections].iter().all(|&value| value == times) {
                break;
            }
            scene.lie_down(SET);
            if !scene.mail.any() {
                scene.sleep(SET);
            }
            scene.rise(SET);
        }
        poster.join().unwrap();
    });
}

#[test]
fn no_byte_is_news_to_nobody() {
    news_of_bytes();
    news_of_both_directions();
}

#[test]
fn whoever_leaves_before_a_set_leaves_it_news() {
    news_beside_a_thread();
}

#[test]
fn whoever_leaves_before_a_thread_tells_it() {
    two_threads();
}

#[test]
fn no_posted_change_stays_unseen() {
    mail(1, 2);
    mail(2, 1);
}

#[test]
fn finds_a_missing_fence_of_the_news() {
    found(Fault::NoFence, news_of_bytes);
    found(Fault::UnfencedNews, news_of_bytes);
}

#[test]
fn finds_news_looked_for_at_the_wrong_time() {
    found(Fault::ClearedLate, news_of_bytes);
    found(Fault::LookedEarly, news_of_bytes);
}

#[test]
fn finds_a_name_from_before_the_news() {
    found(Fault::NameNotReread, news_beside_a_thread);
}

#[test]
fn finds_who_leaves_the_wrong_way() {
    found(Fault::StaleName, two_threads);
    found(Fault::OthersUntold, two_threads);
    found(Fault::UnfencedLeave, two_threads);
}

#[test]
fn finds_mail_mislaid() {
    found(Fault::UnfencedPost, || mail(1, 2));
    found(Fault::UnfencedTake, || mail(1, 2));
    found(Fault::FlagLast, || mail(2, 1));
}
