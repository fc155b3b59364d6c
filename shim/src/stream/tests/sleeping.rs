//! The private list of sleepers, and whom a waker finds.

use super::*;
use crate::stream::sleepers::{Board, Sleepers, Wake, whom};
use crate::stream::{Port, Word, mail, news};

struct Counters {
    sleep: [u32; 4],
    woken: [u32; 4],
}

impl Board for Counters {
    fn sleep(&self, id: u32) -> u32 {
        self.sleep.get(id as usize).copied().unwrap_or(0)
    }
    fn woken(&self, id: u32) -> u32 {
        self.woken.get(id as usize).copied().unwrap_or(0)
    }
}

#[test]
fn first_come_is_named_first_and_the_set_last() {
    let mut list = Sleepers::default();
    assert!(list.is_empty() && list.watch(Some(9)));
    assert_eq!(list.named(), Some(9));
    for id in [3, 0, 5] {
        assert!(list.add(id));
    }
    assert_eq!(list.named(), Some(3));
    list.remove(0, true);
    list.remove(3, true);
    list.remove(3, true);
    assert_eq!(list.named(), Some(5));
    list.remove(5, true);
    assert_eq!(list.named(), Some(9));
    assert!(!list.watch(Some(8)) && list.watch(None));
    assert!(list.is_empty());
}

#[test]
fn threads_of_one_set_stand_there_each_for_itself() {
    let mut list = Sleepers::default();
    assert!(list.add(4) && list.add(4) && list.add(7));
    list.remove(4, true);
    assert_eq!(list.all().collect::<Vec<_>>(), [4, 7]);
    list.remove(4, true);
    assert_eq!(list.named(), Some(7));
}

#[test]
fn a_move_is_told_once_and_the_dead_are_struck_off() {
    let mut list = Sleepers::default();
    assert!(list.add(1) && list.add(2) && list.watch(Some(3)));
    assert!(!list.moved(0) && list.moved(10) && !list.moved(10) && list.moved(11));
    list.retain(|id| id == 2);
    assert_eq!(list.all().collect::<Vec<_>>(), [2]);
}

#[test]
fn the_ninth_sleeps_by_a_timer() {
    let mut list = Sleepers::default();
    assert!((0..8).all(|id| list.add(id)));
    assert!(!list.add(8));
    list.overflow();
    assert!(list.overflowed());
    for id in 0..8 {
        list.remove(id, true);
    }
    assert!(list.named().is_none() && !list.is_empty());
    list.remove(8, false);
    assert!(list.is_empty());
}

#[test]
fn only_who_sleeps_is_woken_and_once_a_sleep() {
    let shared = Shared::new();
    let port = shared.port();
    let mut board = Counters { sleep: [0, 7, 6, 0], woken: [0; 4] };
    assert_eq!(whom(&port, Word::RSleep, &board), None);
    let mut list = Sleepers::default();
    assert!(list.add(1));
    list.name(&port, Word::RSleep);
    assert_eq!(whom(&port, Word::RSleep, &board), Some(Wake { id: 1, counter: 7 }));
    board.woken[1] = 7;
    assert_eq!(whom(&port, Word::RSleep, &board), None);
    board.sleep[1] = 9;
    assert_eq!(whom(&port, Word::RSleep, &board), Some(Wake { id: 1, counter: 9 }));
    for lie in [3, 1 << 20, u64::from(u32::MAX) + 1, 1 << 40, u64::MAX] {
        port.store(Word::RSleep, lie);
        assert_eq!(whom(&port, Word::RSleep, &board), None); // awake, or nobody
    }
}

#[test]
fn news_are_told_once_and_taken_by_who_awaits_them() {
    let words = [news::Bits::default(), news::Bits::default()];
    assert!(news::tell(&words, 3) && news::tell(&words, 70) && !news::tell(&words, 70));
    assert!(!news::tell(&words, 128));
    assert_eq!((news::peek(&words, 0), news::peek(&words, 1), news::peek(&words, 2)), (1 << 3, 1 << 6, 0));
    assert_eq!((news::take(&words, 1, 1 << 5), news::take(&words, 1, u64::MAX)), (0, 1 << 6));
    assert!(news::peek(&words, 0) == 1 << 3 && news::tell(&words, 70));
}

#[test]
fn mail_beyond_its_room_means_all() {
    let mail = mail::Mail::<2>::default();
    assert!(!mail.any());
    [7, 8, 7].iter().for_each(|&letter| mail.post(letter));
    assert!(mail.any());
    assert_eq!((mail.take(), mail.take(), mail.any()), (([7, 8], false), ([0, 0], false), false));
    [7, 8, 9].iter().for_each(|&letter| mail.post(letter));
    assert_eq!(mail.take(), ([7, 8], true));
}
