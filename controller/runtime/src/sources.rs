//! Who holds how many places of something that there is only so much of, by the address they come from.
//!
//! Whoever needs no identity to ask can ask as often as it likes, and must not thereby keep others from asking. Where there
//! is no place left, the oldest one of whoever holds most goes to a newcomer who holds fewer. Among equals the newcomer
//! waits, or goes away: many who each ask for one thing are no attack.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

/// Places, and who holds them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Sources {
    most: usize,
    most_each: usize,
    shared: Arc<Shared>,
}

/// A place that is held until it is dropped, or taken away.
#[derive(Debug)]
pub struct Place {
    number: u64,
    /// Nothing once there is no more to hear.
    signal: Option<oneshot::Receiver<()>>,
    is_taken_away: bool,
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
    next: u64,
}

#[derive(Debug)]
struct Entry {
    source: IpAddr,
    /// Nothing where the place may not be taken away any more.
    take_away: Option<oneshot::Sender<()>>,
}

impl Sources {
    /// `most` places in all, `most_each` of them for one address.
    pub fn new(most: usize, most_each: usize) -> Self {
        Self { most, most_each, shared: Arc::default() }
    }

    /// A place for somebody, now or not at all.
    pub fn enter(&self, source: IpAddr) -> Result<Place, NoPlace> {
        let source = source.to_canonical();
        let mut held = self.shared.held.lock();
        let own = held.counts.get(&source).copied().unwrap_or(0);
        if own >= self.most_each {
            return Err(NoPlace::Own);
        }
        if held.places.len() >= self.most {
            held.make_room(own).ok_or(NoPlace::Full { own })?;
        }
        let (take_away, taken_away) = oneshot::channel();
        let number = held.next;
        held.next += 1;
        held.places.insert(number, Entry { source, take_away: Some(take_away) });
        let count = held.counts.entry(source).or_default();
        *count += 1;
        let count = *count;
        held.resized(count - 1, count);
        Ok(Place { number, signal: Some(taken_away), is_taken_away: false, shared: Arc::clone(&self.shared) })
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

    /// From now on it is not taken away: what is left to do depends on nobody at the other end.
    pub fn keep(&self) {
        if let Some(entry) = self.shared.held.lock().places.get_mut(&self.number) {
            entry.take_away = None;
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
    /// Takes a place away from whoever holds most of those that can be taken, if that is more than somebody who holds `own`
    /// would.
    fn make_room(&mut self, own: usize) -> Option<()> {
        // Said at once where nobody has more, which is usual: looking at every place takes a millisecond of everybody's.
        self.sizes.last_key_value().filter(|(most, _)| **most > own + 1)?;
        let count = |entry: &Entry| self.counts.get(&entry.source).copied().unwrap_or(0);
        let can_go = self.places.iter().filter(|(_, entry)| entry.take_away.is_some() && count(entry) > own + 1);
        let number =
            can_go.max_by_key(|(number, entry)| (count(entry), Reverse(**number))).map(|(number, _)| *number)?;
        let take_away = self.remove(number)?.take_away?;
        // Who has gone meanwhile needs no word.
        let _ = take_away.send(());
        Some(())
    }

    fn remove(&mut self, number: u64) -> Option<Entry> {
        let entry = self.places.remove(&number)?;
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
        assert!(start.elapsed() < std::time::Duration::from_secs(10), "{:?}", start.elapsed());
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
        let sources = Sources::new(5, 3);
        let kept: Vec<Place> = (0..3).map(|_| sources.enter(address(1)).unwrap()).collect();
        kept.iter().for_each(Place::keep);
        let mut places: Vec<Place> = (0..2).map(|_| sources.enter(address(2)).unwrap()).collect();
        let _other = sources.enter(address(3)).unwrap();
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
