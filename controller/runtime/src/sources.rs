//! Who holds how many places of something that there is only so much of, by the address they come from.
//!
//! Whoever needs no identity to ask can ask as often as it likes, and must not thereby keep others from asking. Where there
//! is no place left, the oldest one of whoever holds most goes to a newcomer who holds fewer. Among equals the newcomer
//! waits, or goes away: many who each ask for one thing are no attack.
//!
//! Whoever is [`Preferred`] makes room for others of these alone, and everybody else makes room for it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::preferred::Preferred;

/// Places, and who holds them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Sources {
    most: usize,
    most_each: usize,
    preferred: Preferred,
    shared: Arc<Shared>,
}

/// A place that is held until it is dropped, or taken away.
#[derive(Debug)]
pub struct Place {
    number: u64,
    /// Nothing once there is no more to hear.
    signal: Option<oneshot::Receiver<()>>,
    is_taken_away: bool,
    most_kept: usize,
    shared: Arc<Shared>,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoPlace {
    /// The newcomer's address holds as many as one may.
    Own,
    /// All are held, and nobody holds more than the newcomer would.
    Full {
        /// How many the newcomer's address holds.
        own: usize,
    },
}

#[derive(Debug, Default)]
struct Shared {
    held: Mutex<Held>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Held {
    /// By number, so that the oldest is the first.
    places: BTreeMap<u64, Entry>,
    counts: HashMap<IpAddr, usize>,
    /// How many addresses hold so many.
    sizes: BTreeMap<usize, usize>,
    waiting: HashMap<IpAddr, usize>,
    /// How many places are kept.
    kept: usize,
    next: u64,
}

#[derive(Debug)]
struct Entry {
    source: IpAddr,
    since: Instant,
    /// Nothing where the place may not be taken away any more.
    take_away: Option<oneshot::Sender<()>>,
}

impl Sources {
    /// `most` places in all, `most_each` of them for one address.
    pub fn new(most: usize, most_each: usize) -> Self {
        Self { most, most_each, preferred: Preferred::default(), shared: Arc::default() }
    }

    /// The same, where these come first.
    pub fn preferring(self, preferred: Preferred) -> Self {
        Self { preferred, ..self }
    }

    /// A place for somebody, now or not at all.
    pub fn enter(&self, source: IpAddr) -> Result<Place, NoPlace> {
        self.enter_after(source, |held, own| held.make_room(own, &self.rank(source)))
    }

    /// A place for somebody, at the cost of whoever has had one for longest if that is longer than `age`, however few it has.
    pub fn enter_past(&self, source: IpAddr, age: Duration) -> Result<Place, NoPlace> {
        let before = Instant::now().checked_sub(age);
        self.enter_after(source, |held, own| {
            let rank = self.rank(source);
            held.make_room(own, &rank).or_else(|| held.take_oldest(before?, &rank))
        })
    }

    fn rank(&self, newcomer: IpAddr) -> Rank<'_> {
        Rank { preferred: &self.preferred, comes_first: self.preferred.contains(newcomer) }
    }

    fn enter_after(
        &self,
        source: IpAddr,
        make_room: impl FnOnce(&mut Held, usize) -> Option<()>,
    ) -> Result<Place, NoPlace> {
        let source = source.to_canonical();
        let mut held = self.shared.held.lock();
        let own = held.counts.get(&source).copied().unwrap_or(0);
        if own >= self.most_each {
            return Err(NoPlace::Own);
        }
        if held.places.len() >= self.most {
            make_room(&mut held, own).ok_or(NoPlace::Full { own })?;
        }
        let (take_away, taken_away) = oneshot::channel();
        let number = held.next;
        held.next += 1;
        held.places.insert(number, Entry { source, since: Instant::now(), take_away: Some(take_away) });
        let count = held.counts.entry(source).or_default();
        *count += 1;
        let count = *count;
        held.resized(count - 1, count);
        let shared = Arc::clone(&self.shared);
        Ok(Place { number, signal: Some(taken_away), is_taken_away: false, most_kept: self.most / 2, shared })
    }

    /// A place for somebody, as soon as there is one; no place where `longest` of the same address wait already.
    pub async fn wait(&self, source: IpAddr, longest: usize) -> Result<Place, NoPlace> {
        let mut waiting = None;
        loop {
            let mut freed = std::pin::pin!(self.shared.freed.notified());
            freed.as_mut().enable();
            let no_place = match self.enter(source) {
                Ok(place) => return Ok(place),
                Err(no_place) => no_place,
            };
            if waiting.is_none() {
                waiting = Some(Waiting::new(&self.shared, source.to_canonical(), longest).ok_or(no_place)?);
            }
            freed.await;
        }
    }

    /// How many are held.
    pub fn held(&self) -> usize {
        self.shared.held.lock().places.len()
    }
}

/// For whom room is made, of those who come first or of the others.
struct Rank<'p> {
    preferred: &'p Preferred,
    comes_first: bool,
}

impl Rank<'_> {
    /// Whether an entry of somebody who holds `count` may go for a newcomer who holds `own`: any of the others for those who come
    /// first; among equals in rank, those of whoever has more than the newcomer would have.
    fn may_go(&self, entry: &Entry, count: usize, own: usize) -> bool {
        match (self.comes_first, self.preferred.contains(entry.source)) {
            (true, false) => true,
            (false, true) => false,
            _ => count > own + 1,
        }
    }
}

/// Somebody in the line.
struct Waiting<'s> {
    shared: &'s Shared,
    source: IpAddr,
}

impl<'s> Waiting<'s> {
    fn new(shared: &'s Shared, source: IpAddr, longest: usize) -> Option<Self> {
        let mut held = shared.held.lock();
        let waiting = held.waiting.entry(source).or_default();
        *waiting += 1;
        let has_room = *waiting <= longest;
        drop(held);
        // One that finds no room leaves the line again when it is dropped.
        let waiting = Self { shared, source };
        has_room.then_some(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        count_down(&mut self.shared.held.lock().waiting, self.source);
    }
}

impl Place {
    /// Resolves when the place was taken away; never where it is kept.
    pub async fn taken_away(&mut self) {
        std::future::poll_fn(|cx| self.poll_taken_away(cx)).await;
    }

    /// Ready when the place was taken away, and from then on.
    pub fn poll_taken_away(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(signal) = &mut self.signal
            && let Poll::Ready(heard) = Pin::new(signal).poll(cx)
        {
            (self.signal, self.is_taken_away) = (None, heard.is_ok());
        }
        if self.is_taken_away { Poll::Ready(()) } else { Poll::Pending }
    }

    /// From now on it is not taken away, unless half of all places are kept already: what is left to do depends on nobody at
    /// the other end, and may yet take its time.
    pub fn keep(&self) {
        let mut held = self.shared.held.lock();
        let has_room = held.kept < self.most_kept;
        if let Some(entry) = held.places.get_mut(&self.number).filter(|entry| has_room && entry.take_away.is_some()) {
            entry.take_away = None;
            held.kept += 1;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.held.lock().remove(self.number);
        self.shared.freed.notify_waiters();
    }
}

impl Held {
    /// Takes a place away from whoever holds most of those that can be taken, first of all from whoever does not come first.
    fn make_room(&mut self, own: usize, rank: &Rank<'_>) -> Option<()> {
        let fewest = if rank.comes_first { 0 } else { own + 1 };
        // Said at once where nobody has more, which is usual: looking at every place takes a millisecond of everybody's.
        self.sizes.last_key_value().filter(|(most, _)| **most > fewest)?;
        let count = |entry: &Entry| self.counts.get(&entry.source).copied().unwrap_or(0);
        let can_go = self.can_go().filter(|(_, entry)| rank.may_go(entry, count(entry), own));
        let worst = can_go
            .max_by_key(|(number, entry)| (!rank.preferred.contains(entry.source), count(entry), Reverse(**number)));
        let number = *worst?.0;
        self.take_away(number)
    }

    /// Takes away the place that was given first, if that was before `before`: not of those who come first for others.
    fn take_oldest(&mut self, before: Instant, rank: &Rank<'_>) -> Option<()> {
        let mut can_go = self.can_go().filter(|(_, entry)| rank.comes_first || !rank.preferred.contains(entry.source));
        let number = *can_go.next().filter(|(_, entry)| entry.since <= before)?.0;
        drop(can_go);
        self.take_away(number)
    }

    fn can_go(&self) -> impl Iterator<Item = (&u64, &Entry)> {
        self.places.iter().filter(|(_, entry)| entry.take_away.is_some())
    }

    fn take_away(&mut self, number: u64) -> Option<()> {
        // Who has gone meanwhile needs no word.
        let _ = self.remove(number)?.take_away?.send(());
        Some(())
    }

    fn remove(&mut self, number: u64) -> Option<Entry> {
        let entry = self.places.remove(&number)?;
        self.kept -= usize::from(entry.take_away.is_none());
        let count = self.counts.get(&entry.source).copied().unwrap_or(0);
        count_down(&mut self.counts, entry.source);
        self.resized(count, count.saturating_sub(1));
        Some(entry)
    }

    /// An address that held `before` holds `now`.
    fn resized(&mut self, before: usize, now: usize) {
        if let Some(addresses) = self.sizes.get_mut(&before) {
            *addresses -= 1;
            if *addresses == 0 {
                self.sizes.remove(&before);
            }
        }
        if now > 0 {
            *self.sizes.entry(now).or_default() += 1;
        }
    }
}

fn count_down(counts: &mut HashMap<IpAddr, usize>, source: IpAddr) {
    if let Some(count) = counts.get_mut(&source) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&source);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn is_taken_away(place: &mut Place) -> bool {
        place.poll_taken_away(&mut Context::from_waker(std::task::Waker::noop())).is_ready()
    }

    #[test]
    fn who_holds_most_loses_the_oldest_and_equals_lose_nothing() {
        let sources = Sources::new(4, 3);
        let mut greedy: Vec<Place> = (0..3).map(|_| sources.enter(address(1)).unwrap()).collect();
        assert_eq!(sources.enter(address(1)).unwrap_err(), NoPlace::Own);
        let mut second = sources.enter(address(2)).unwrap();
        // The same address, as a socket for both families has it.
        let mapped = sources.enter("::ffff:10.0.0.2".parse().unwrap()).unwrap();
        assert_eq!(greedy.iter_mut().map(is_taken_away).collect::<Vec<_>>(), [true, false, false]);
        assert_eq!(sources.enter(address(1)).unwrap_err(), NoPlace::Full { own: 2 }, "two and two are equal");
        let third = sources.enter(address(3)).unwrap();
        assert!(is_taken_away(&mut greedy[1]) && !is_taken_away(&mut second));
        drop((greedy, mapped));
        assert_eq!(sources.held(), 2);
        drop((second, third));
        assert_eq!((sources.held(), sources.shared.held.lock().counts.len()), (0, 0));
        assert!(sources.shared.held.lock().sizes.is_empty());
    }

    #[test]
    fn where_nobody_has_more_a_newcomer_is_told_so_without_a_look_at_every_place() {
        let sources = Sources::new(20_000, 512);
        let address = |n: u32| IpAddr::from(n.to_be_bytes());
        let places: Vec<Place> = (0..20_000).map(|n| sources.enter(address(n)).unwrap()).collect();
        let start = std::time::Instant::now();
        assert!((20_000..40_000).all(|n| sources.enter(address(n)).unwrap_err() == NoPlace::Full { own: 0 }));
        // With a look at each of the places it is minutes.
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        drop(places);
        assert!(sources.shared.held.lock().sizes.is_empty());
    }

    #[test]
    fn what_is_kept_is_not_taken_away() {
        let sources = Sources::new(2, 2);
        let mut places: Vec<Place> = (0..2).map(|_| sources.enter(address(1)).unwrap()).collect();
        places[0].keep();
        let _other = sources.enter(address(2)).unwrap();
        assert!(is_taken_away(&mut places[1]) && !is_taken_away(&mut places[0]));
        assert_eq!(sources.enter(address(3)).unwrap_err(), NoPlace::Full { own: 0 });
        // Where all of whoever has most are kept, it is the next one's turn.
        let sources = Sources::new(6, 3);
        let kept: Vec<Place> = (0..3).map(|_| sources.enter(address(1)).unwrap()).collect();
        kept.iter().for_each(Place::keep);
        let mut places: Vec<Place> = (0..3).map(|_| sources.enter(address(2)).unwrap()).collect();
        let _other = sources.enter(address(3)).unwrap();
        assert!(is_taken_away(&mut places[0]) && !is_taken_away(&mut places[1]));
    }

    #[test]
    fn half_of_the_places_are_kept_at_most() {
        let sources = Sources::new(4, 4);
        let mut kept: Vec<Place> = (0..4).map(|_| sources.enter(address(1)).unwrap()).collect();
        // Twice is as once.
        kept.iter().chain(&kept).for_each(Place::keep);
        let _other = sources.enter(address(2)).unwrap();
        assert_eq!(kept.iter_mut().map(is_taken_away).collect::<Vec<_>>(), [false, false, true, false]);
        kept[3].keep();
        drop(kept.remove(0));
        assert_eq!(sources.shared.held.lock().kept, 1);
        kept[2].keep();
        assert_eq!(sources.shared.held.lock().kept, 2, "there is room again");
        drop(kept);
        assert_eq!(sources.shared.held.lock().kept, 0);
    }

    #[test]
    fn others_make_room_for_the_preferred_who_share_among_themselves() {
        let preferred = Preferred::default();
        let sources = Sources::new(4, 3).preferring(preferred.clone());
        preferred.set_addresses([address(9)]);
        let mut own: Vec<Place> = (0..2).map(|_| sources.enter(address(9)).unwrap()).collect();
        let mut others: Vec<Place> = (1..3).map(|n| sources.enter(address(n)).unwrap()).collect();
        assert_eq!(sources.enter(address(3)).unwrap_err(), NoPlace::Full { own: 0 }, "though another has two");
        assert_eq!(sources.enter_past(address(3), Duration::ZERO).map(drop), Ok(()));
        assert!(is_taken_away(&mut others[0]) && !own.iter_mut().any(is_taken_away));
        let _third = sources.enter(address(9)).unwrap();
        assert_eq!(sources.enter(address(9)).unwrap_err(), NoPlace::Own);
        // Among themselves they share as the others do: a network may hold more than the one who was meant.
        preferred.set_addresses([address(9), address(8)]);
        others[1].keep();
        let _late = sources.enter(address(8)).unwrap();
        assert!(is_taken_away(&mut own[0]) && !is_taken_away(&mut own[1]));
        assert_eq!(sources.enter(address(8)).unwrap_err(), NoPlace::Full { own: 1 });
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_been_there_too_long_goes_however_few_it_has() {
        let sources = Sources::new(2, 1);
        let mut places: Vec<Place> = (0..2).map(|n| sources.enter(address(n)).unwrap()).collect();
        let age = Duration::from_secs(3);
        assert_eq!(sources.enter_past(address(3), age).unwrap_err(), NoPlace::Full { own: 0 });
        tokio::time::advance(age).await;
        let _third = sources.enter_past(address(3), age).unwrap();
        assert!(is_taken_away(&mut places[0]) && !is_taken_away(&mut places[1]));
    }

    #[tokio::test]
    async fn who_waits_gets_the_place_that_is_freed() {
        let sources = Sources::new(1, 1);
        let place = sources.enter(address(1)).unwrap();
        let waiting = [1, 2].map(|last| {
            let sources = sources.clone();
            tokio::spawn(async move { sources.wait(address(last), 1).await.map(drop) })
        });
        tokio::task::yield_now().await;
        assert_eq!(sources.wait(address(1), 1).await.unwrap_err(), NoPlace::Own, "the line has its length");
        drop(place);
        for waiting in waiting {
            waiting.await.unwrap().unwrap();
        }
    }
}
