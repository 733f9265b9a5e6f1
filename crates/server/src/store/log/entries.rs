//! Where the frames of one run lie in the live journal: 16 bytes for each 64 KiB, or for each record that lies apart.
//! It knows places and sequences, and no files.

use outflow_engine::Sequence;
use smallvec::SmallVec;

use super::Place;

/// Frames that lie together up to so many bytes are one entry: what a reader takes at once.
const ENTRY_BYTES_MAX: u32 = 64 * 1024;
/// Records of a run count as lying together where no more than this is between them: reading over so much is as cheap
/// as a second read, and a run that trickles costs an entry for 64 KiB of everybody's records instead of one for each
/// of its own.
const GAP_BYTES_MAX: u32 = 2 * 1024;

/// Where the frames of a run lie, in the order of their sequences.
#[derive(Default)]
pub(super) struct Entries {
    /// What `Entry::first` counts from.
    base: u64,
    /// The first has its place here: of an idle run there is no more.
    list: SmallVec<[Entry; 1]>,
}

/// Frames from `first` to before the next entry's first.
#[derive(Clone, Copy)]
struct Entry {
    first: u32,
    slot: u32,
    offset: u32,
    /// From the first byte of the first record to the last byte of the last; 0 where the frames are lost.
    length: u32,
}

const _: () = assert!(size_of::<Entry>() == 16);

/// Where a sequence is.
pub(super) enum Found {
    /// Before the first entry.
    Before,
    /// It is lost, as is all up to this one; `None`: up to the last there is.
    Lost(Option<Sequence>),
    /// In the entry with this number.
    There(usize),
}

impl Entries {
    /// Adds frames that begin with `first`, which is greater than all before.
    pub(super) fn push(&mut self, first: Sequence, place: Place) {
        if let Some(last) = self.list.last_mut()
            && last.length > 0
            && last.slot == place.slot
            && let Some(gap) = place.offset.checked_sub(last.offset + last.length)
            && gap <= GAP_BYTES_MAX
            && place.offset + place.length - last.offset <= ENTRY_BYTES_MAX
        {
            last.length += gap + place.length;
            return;
        }
        self.add(first, place);
    }

    /// Adds frames that begin with `first` and are not readable.
    pub(super) fn push_lost(&mut self, first: Sequence) {
        self.add(first, Place { slot: 0, offset: 0, length: 0 });
    }

    fn add(&mut self, first: Sequence, Place { slot, offset, length }: Place) {
        if self.list.is_empty() {
            self.base = first.get();
        }
        if self.list.len() == self.list.capacity() {
            // An eighth more, and not twice as much: a full journal of single responses has three million entries.
            let length = self.list.len();
            self.list.reserve_exact((length / 8).max(length.clamp(1, 4)));
        }
        let first = self.relative(first.get());
        self.list.push(Entry { first, slot, offset, length });
    }

    /// The sequence as it stands in an entry.
    fn relative(&mut self, first: u64) -> u32 {
        if let Ok(relative) = u32::try_from(first - self.base) {
            return relative;
        }
        // A run that went on for four thousand million responses while something of it was here: what is here now is
        // far younger, since no journal holds so many.
        let moved = self.list[0].first;
        self.base += u64::from(moved);
        for entry in &mut self.list {
            entry.first -= moved;
        }
        u32::try_from(first - self.base).expect("a journal holds fewer frames than that")
    }

    /// Where the frame `from` is; it is not greater than the last there is.
    pub(super) fn find(&self, from: Sequence) -> Found {
        let after = self.list.partition_point(|entry| self.base + u64::from(entry.first) <= from.get());
        match after.checked_sub(1) {
            None => Found::Before,
            Some(at) if self.list[at].length == 0 => Found::Lost(self.last_of(at)),
            Some(at) => Found::There(at),
        }
    }

    /// The last sequence of an entry; of the last one it is not known here.
    fn last_of(&self, at: usize) -> Option<Sequence> {
        self.list.get(at + 1).map(|next| Sequence::new(self.base + u64::from(next.first) - 1))
    }

    /// Places of about `bytes_max` bytes from an entry on, at least one where there are any, and at most `max`; up to
    /// frames that are lost, where that is not the first.
    pub(super) fn places(&self, at: usize, bytes_max: usize, max: usize) -> impl Iterator<Item = Place> {
        let mut bytes = 0;
        self.list[at..].iter().take(max).map_while(move |entry| {
            let wanted = bytes == 0 || bytes + entry.length as usize <= bytes_max;
            bytes += entry.length as usize;
            let place = Place { slot: entry.slot, offset: entry.offset, length: entry.length };
            (wanted && entry.length > 0).then_some(place)
        })
    }

    /// The first entry from `at` on that is not lost, or how many entries there are.
    pub(super) fn next_readable(&self, at: usize) -> usize {
        at + self.list[at..].iter().take_while(|entry| entry.length == 0).count()
    }

    /// Where an entry lies; `None` where it is lost, or there is no such entry.
    pub(super) fn place(&self, at: usize) -> Option<Place> {
        let entry = self.list.get(at).filter(|entry| entry.length > 0)?;
        Some(Place { slot: entry.slot, offset: entry.offset, length: entry.length })
    }

    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// The first sequence of an entry; `None` where there is no such entry.
    pub(super) fn first_of(&self, at: usize) -> Option<Sequence> {
        self.list.get(at).map(|entry| Sequence::new(self.base + u64::from(entry.first)))
    }

    /// Takes out the entries all of whose frames are at or before `through`; `last` is the last frame there is.
    pub(super) fn trim(&mut self, through: Sequence, last: Sequence) {
        if through >= last {
            *self = Self::default();
            return;
        }
        let kept = self.list.partition_point(|entry| self.base + u64::from(entry.first) <= through.get() + 1);
        let trimmed = kept.saturating_sub(1);
        self.list.drain(..trimmed);
        if self.list.capacity() >= 2 * self.list.len() {
            self.list.shrink_to_fit();
        }
    }

    /// What it takes in memory beside itself.
    pub(super) fn memory(&self) -> usize {
        if self.list.spilled() { self.list.capacity() * size_of::<Entry>() } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(offset: u32, length: u32) -> Place {
        Place { slot: 1, offset, length }
    }

    fn places(entries: &Entries, at: usize, bytes_max: usize) -> Vec<(u32, u32)> {
        entries.places(at, bytes_max, usize::MAX).map(|place| (place.offset, place.length)).collect()
    }

    #[test]
    fn neighbours_share_an_entry_up_to_its_size() {
        let mut entries = Entries::default();
        for n in 0..1_000 {
            entries.push(Sequence::new(n + 1), place(512 + n as u32 * 200, 100));
        }
        assert_eq!(entries.len(), 4, "200 kB in entries of 64 KiB");
        entries.push(Sequence::new(1_001), place(512 + 200_000 + GAP_BYTES_MAX + 1, 100));
        assert_eq!(entries.len(), 5, "what lies apart is another entry");
        entries.push(Sequence::new(1_002), Place { slot: 2, ..place(512 + 204_200, 100) });
        assert_eq!(entries.len(), 6, "and so is another segment");
        assert!(entries.memory() <= 16 * 8);
    }

    #[test]
    fn what_lies_together_takes_no_memory_beside_itself() {
        let mut entries = Entries::default();
        for n in 0..100 {
            entries.push(Sequence::new(n + 1), place(512 + n as u32 * 200, 100));
        }
        assert_eq!((entries.len(), entries.memory()), (1, 0), "ten thousand idle runs have one each");
        entries.push(Sequence::new(101), place(1 << 20, 100));
        assert_eq!((entries.len(), entries.memory()), (2, 2 * size_of::<Entry>()));
        entries.trim(Sequence::new(100), Sequence::new(101));
        assert_eq!((entries.len(), entries.memory()), (1, 0), "and one again");
    }

    #[test]
    fn a_sequence_is_found_in_the_entry_that_holds_it() {
        let mut entries = Entries::default();
        for (first, offset) in [(11, 0), (21, 100_000), (31, 200_000)] {
            entries.push(Sequence::new(first), place(offset, 50_000));
        }
        entries.push_lost(Sequence::new(41));
        entries.push(Sequence::new(51), place(300_000, 10));
        assert!(matches!(entries.find(Sequence::new(10)), Found::Before));
        for (sequence, entry) in [(11, 0), (20, 0), (21, 1), (31, 2), (40, 2), (51, 4), (99, 4)] {
            let Found::There(found) = entries.find(Sequence::new(sequence)) else { panic!("{sequence} is there") };
            assert_eq!(found, entry, "{sequence}");
        }
        assert!(matches!(entries.find(Sequence::new(45)), Found::Lost(Some(last)) if last.get() == 50));
        assert_eq!(places(&entries, 0, 1), [(0, 50_000)], "at least one");
        assert_eq!(places(&entries, 0, 100_000), [(0, 50_000), (100_000, 50_000)]);
        assert_eq!(places(&entries, 0, 1 << 20).len(), 3, "up to what is lost");
        assert_eq!(places(&entries, 4, 1 << 20), [(300_000, 10)]);
    }

    #[test]
    fn only_whole_entries_are_trimmed() {
        let mut entries = Entries::default();
        for (first, offset) in [(1, 0), (11, 100_000), (21, 200_000)] {
            entries.push(Sequence::new(first), place(offset, 50_000));
        }
        let last = Sequence::new(30);
        entries.trim(Sequence::new(9), last);
        assert_eq!(entries.first_of(0).unwrap().get(), 1);
        entries.trim(Sequence::new(10), last);
        assert_eq!((entries.len(), entries.first_of(0).unwrap().get()), (2, 11));
        entries.trim(Sequence::new(29), last);
        assert_eq!((entries.len(), entries.first_of(0).unwrap().get()), (1, 21));
        entries.trim(last, last);
        assert_eq!((entries.len(), entries.memory()), (0, 0));
    }

    #[test]
    fn a_run_may_go_on_for_ever() {
        let mut entries = Entries::default();
        entries.push(Sequence::new(5), place(0, 50_000));
        entries.push(Sequence::new(4_000_000_000), place(100_000, 50_000));
        let last = Sequence::new(9_000_000_000);
        entries.trim(Sequence::new(3_999_999_999), last);
        entries.push(Sequence::new(8_000_000_000), place(200_000, 50_000));
        assert!(matches!(entries.find(Sequence::new(7_999_999_999)), Found::There(0)));
        assert!(matches!(entries.find(Sequence::new(8_000_000_001)), Found::There(1)));
    }
}
