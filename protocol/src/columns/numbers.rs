//! Streams of numbers: each is written in whichever way is shortest, and says which that is.
//!
//! A stream is all numbers that one place of the events gives, in the order in which they are read
//! again. Values of *other* streams are known by then, so a stream may lean on them: an id that
//! stands in two texts is written once, a time as its distance from another one.
//!
//! ```text
//! streams   u number of streams, then a head for each, then the bytes of all in planes
//! head      0  u value                                  all are the same
//!           1  u stream                                 always the latest value of that stream
//!           2  u count, way, coding
//! way       0                                           the value
//!           1                                           value − the one before
//!           2  u stream, u unit                         (value − latest) / unit
//!           3  u stream, u unit                         value / unit − ⌊latest / unit⌋
//!           4  u a, u b, u c                            value − (latest a − latest b + latest c)
//! coding    1..8                                        so many planes: the lowest byte of all, …
//!           128 + bits  u least                         − least, in so many bits, in the raw area
//! ```
//!
//! `u` is a number of [`Source::number`]. Of ways 1 to 4 the difference is folded. The latest value
//! of a stream that gave none yet is 0. All arithmetic wraps at 64 bits.

use std::ops::Range;

use super::ColumnsError;
use super::source::{Source, folded, put_number, put_size, unfolded};

/// A stream, by its number.
pub(super) type StreamId = usize;

const SAME: u8 = 0;
const TWIN: u8 = 1;
const LISTED: u8 = 2;
const PACKED: u8 = 128;
/// Packed numbers are read eight bytes at a time.
const PACKED_BITS_MAX: u32 = 56;

/// How a value follows from what is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Itself,
    FromLast,
    /// From the latest of a stream, a whole number of units away.
    From(StreamId, u64),
    /// The same, where the value is a whole number of units and the other one need not be.
    FromFloor(StreamId, u64),
    FromThree([StreamId; 3]),
}

impl Way {
    fn value(self, residual: u64, last: u64, latest: impl Fn(StreamId) -> u64) -> u64 {
        let difference = unfolded(residual).cast_unsigned();
        match self {
            Self::Itself => residual,
            Self::FromLast => last.wrapping_add(difference),
            Self::From(stream, unit) => latest(stream).wrapping_add(difference.wrapping_mul(unit)),
            Self::FromFloor(stream, unit) => {
                (latest(stream) / unit).wrapping_add(difference).wrapping_mul(unit)
            }
            Self::FromThree([a, b, c]) => {
                three(latest(a), latest(b), latest(c)).wrapping_add(difference)
            }
        }
    }

    fn put(self, out: &mut Vec<u8>) {
        match self {
            Self::Itself => out.push(0),
            Self::FromLast => out.push(1),
            Self::From(stream, unit) => {
                out.push(2);
                put_size(out, stream);
                put_number(out, unit);
            }
            Self::FromFloor(stream, unit) => {
                out.push(3);
                put_size(out, stream);
                put_number(out, unit);
            }
            Self::FromThree(streams) => {
                out.push(4);
                streams.into_iter().for_each(|stream| put_size(out, stream));
            }
        }
    }

    fn read(heads: &mut Source<'_>, streams: usize) -> Result<Self, ColumnsError> {
        let way = heads.byte()?;
        let mut stream = || {
            heads.size().and_then(|stream| {
                if stream < streams { Ok(stream) } else { Err(ColumnsError::Malformed) }
            })
        };
        Ok(match way {
            0 => Self::Itself,
            1 => Self::FromLast,
            2 | 3 => {
                let stream = stream()?;
                let unit = heads.number()?;
                if unit == 0 || unit > i64::MAX.cast_unsigned() {
                    return Err(ColumnsError::Malformed);
                }
                if way == 2 { Self::From(stream, unit) } else { Self::FromFloor(stream, unit) }
            }
            4 => Self::FromThree([stream()?, stream()?, stream()?]),
            _ => return Err(ColumnsError::Malformed),
        })
    }
}

/// A difference in units, of which it need not be a whole number.
const fn in_units(difference: i64, unit: u64) -> i64 {
    // Divisors that are known cost a multiplication.
    match unit {
        1 => difference,
        1_000 => difference / 1_000,
        1_000_000 => difference / 1_000_000,
        _ => difference.wrapping_div(unit.cast_signed()),
    }
}

const fn is_whole(number: u64, unit: u64) -> bool {
    match unit {
        1 => true,
        1_000 => number.is_multiple_of(1_000),
        1_000_000 => number.is_multiple_of(1_000_000),
        _ => number.is_multiple_of(unit),
    }
}

/// The largest unit of which all are whole numbers.
fn largest_unit(numbers: impl Iterator<Item = u64>) -> u64 {
    let mut units = UNITS.into_iter();
    let mut unit = units.next().unwrap_or(1);
    for number in numbers {
        while !is_whole(number, unit) {
            unit = units.next().unwrap_or(1);
        }
        if unit == 1 {
            break;
        }
    }
    unit
}

const fn three(a: u64, b: u64, c: u64) -> u64 {
    a.wrapping_sub(b).wrapping_add(c)
}

/// Streams while they are gathered.
#[derive(Debug, Default)]
pub(super) struct Streams {
    /// Those that are open, and behind them others, kept for their memory.
    streams: Vec<Stream>,
    opened: usize,
    /// Those that hold times.
    times: Vec<StreamId>,
    /// The latest values of those.
    latest_times: [u64; TIMES_MAX],
    /// The larger numbers of the record at hand: those by which a twin is found.
    record: Vec<(u64, StreamId)>,
}

/// Whether a stream's numbers are written one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum IsListed {
    Yes,
    No,
}

#[derive(Debug, Default)]
struct Stream {
    values: Vec<u64>,
    twin: Twin,
    /// Which of the streams of times it is.
    time: Option<usize>,
    /// Of a stream of times: the latest of all such streams, as each value came.
    latest: Vec<[u64; TIMES_MAX]>,
}

impl Stream {
    /// The value that all are; 0 where there is none.
    fn only_value(&self) -> Option<u64> {
        let Some((first, others)) = self.values.split_first() else { return Some(0) };
        // Side by side they are compared as bytes are.
        let are_same = *others == self.values[..others.len()];
        are_same.then_some(*first)
    }
}

/// The stream that had the same value in each record until now.
#[derive(Clone, Copy, Debug, Default)]
enum Twin {
    #[default]
    Wanted,
    Is(StreamId),
    None,
}

/// So many streams of times lean on one another.
const TIMES_MAX: usize = 8;
/// Smaller numbers are often the same by chance.
const TWIN_VALUE_MIN: u64 = 64;
/// A way is chosen by so many values.
const SAMPLE_VALUES: usize = 64;

impl Streams {
    pub(super) fn clear(&mut self) {
        for stream in self.streams.iter_mut().take(self.opened) {
            stream.values.clear();
            stream.latest.clear();
            (stream.twin, stream.time) = (Twin::Wanted, None);
        }
        self.opened = 0;
        self.times.clear();
        self.latest_times = [0; TIMES_MAX];
    }

    pub(super) fn open(&mut self) -> StreamId {
        if self.opened == self.streams.len() {
            self.streams.push(Stream::default());
        }
        self.opened += 1;
        self.opened - 1
    }

    /// Opens a stream of times, in microseconds.
    pub(super) fn open_time(&mut self) -> StreamId {
        let stream = self.open();
        if self.times.len() < TIMES_MAX {
            self.streams[stream].time = Some(self.times.len());
            self.times.push(stream);
        }
        stream
    }

    /// A record begins.
    pub(super) fn begin_record(&mut self) {
        self.record.clear();
    }

    #[inline]
    pub(super) fn push(&mut self, to: StreamId, value: u64) {
        self.see_twin(to, value);
        if value >= TWIN_VALUE_MIN {
            self.record.push((value, to));
        }
        let stream = &mut self.streams[to];
        if let Some(time) = stream.time {
            stream.latest.push(self.latest_times);
            self.latest_times[time] = value;
        }
        stream.values.push(value);
    }

    #[inline]
    fn see_twin(&mut self, to: StreamId, value: u64) {
        match self.streams[to].twin {
            Twin::Is(twin) if self.latest(twin) != value => self.streams[to].twin = Twin::None,
            Twin::Wanted => self.streams[to].twin = self.twin_of(value),
            Twin::Is(_) | Twin::None => {}
        }
    }

    /// The stream that gave this value first in the record, unless it gave another one since.
    fn twin_of(&self, value: u64) -> Twin {
        let gave =
            |(other, stream): &&(u64, StreamId)| *other == value && self.latest(*stream) == value;
        let twin = self.record.iter().filter(|_| value >= TWIN_VALUE_MIN).find(gave);
        twin.map_or(Twin::None, |(_, stream)| Twin::Is(*stream))
    }

    fn latest(&self, stream: StreamId) -> u64 {
        self.streams[stream].values.last().copied().unwrap_or(0)
    }

    /// Writes all streams: heads and planes into `numbers`, packed bits into `raw`.
    pub(super) fn finish(&self, numbers: &mut Vec<u8>, raw: &mut Vec<u8>, costs: &Costs) {
        let (mut planes, mut residuals) = (Vec::new(), Vec::new());
        put_size(numbers, self.opened);
        for (id, stream) in self.streams.iter().take(self.opened).enumerate() {
            if self.put_head(id, stream, numbers, &mut residuals) == IsListed::Yes {
                put_residuals(&residuals, numbers, &mut planes, raw, costs);
            }
        }
        numbers.extend_from_slice(&planes);
    }

    /// Of a stream that is listed the coding is still missing; `residuals` are what is to be coded.
    fn put_head(
        &self,
        id: StreamId,
        stream: &Stream,
        heads: &mut Vec<u8>,
        residuals: &mut Vec<u64>,
    ) -> IsListed {
        if let Some(value) = stream.only_value() {
            heads.push(SAME);
            put_number(heads, value);
            return IsListed::No;
        }
        if let Twin::Is(twin) = stream.twin {
            heads.push(TWIN);
            put_size(heads, twin);
            return IsListed::No;
        }
        heads.push(LISTED);
        put_size(heads, stream.values.len());
        let way = self.way(id, stream, residuals);
        way.put(heads);
        self.residuals(stream, way, usize::MAX, residuals);
        IsListed::Yes
    }

    /// What is left of the first values, of so many at most, when they are told in a way.
    fn residuals(&self, stream: &Stream, way: Way, count_max: usize, out: &mut Vec<u64>) {
        let values = &stream.values[..count_max.min(stream.values.len())];
        let beside = || values.iter().zip(&stream.latest);
        let time = |other: StreamId| self.streams[other].time.expect("times lean on times alone");
        out.clear();
        match way {
            Way::Itself => out.extend_from_slice(values),
            Way::FromLast => {
                out.extend(values.first().map(|first| difference(*first, 0)));
                out.extend(values.windows(2).map(|pair| difference(pair[1], pair[0])));
            }
            Way::From(other, unit) => {
                let time = time(other);
                out.extend(beside().map(|(value, latest)| {
                    folded(in_units(value.wrapping_sub(latest[time]).cast_signed(), unit))
                }));
            }
            Way::FromFloor(other, unit) => {
                let time = time(other);
                out.extend(
                    beside().map(|(value, latest)| difference(value / unit, latest[time] / unit)),
                );
            }
            Way::FromThree(others) => {
                let [a, b, c] = others.map(time);
                out.extend(beside().map(|(value, latest)| {
                    difference(*value, three(latest[a], latest[b], latest[c]))
                }));
            }
        }
    }

    /// The way that leaves the fewest bits, by a sample, for which there is memory.
    fn way(&self, id: StreamId, stream: &Stream, sample: &mut Vec<u64>) -> Way {
        let mut bits = |way: Way| -> u64 {
            self.residuals(stream, way, SAMPLE_VALUES, sample);
            sample.iter().map(|residual| u64::from(u64::BITS - residual.leading_zeros())).sum()
        };
        let mut best = (bits(Way::Itself), Way::Itself);
        let mut offer = |way: Way| {
            let bits = bits(way);
            if bits < best.0 {
                best = (bits, way);
            }
        };
        offer(Way::FromLast);
        if let Some(time) = stream.time {
            let own_unit = largest_unit(stream.values.iter().copied());
            for (other, id) in self.times.iter().enumerate().filter(|(other, _)| *other != time) {
                let away = stream.values.iter().zip(&stream.latest);
                let away = away.map(|(value, latest)| value.wrapping_sub(latest[other]));
                let unit = largest_unit(away.map(|away| away.cast_signed().unsigned_abs()));
                offer(Way::From(*id, unit));
                if own_unit > 1 {
                    offer(Way::FromFloor(*id, own_unit));
                }
            }
            self.ways_from_three(id, stream).into_iter().for_each(&mut offer);
        }
        best.1
    }

    /// A time that follows wholly from three others, as the corrected time of an event does.
    fn ways_from_three(&self, id: StreamId, stream: &Stream) -> Option<Way> {
        let others = || (0..self.times.len()).filter(|time| self.times[*time] != id);
        let fits = |[a, b, c]: [usize; 3]| {
            stream
                .latest
                .iter()
                .zip(&stream.values)
                .take(SAMPLE_VALUES)
                .all(|(latest, value)| three(latest[a], latest[b], latest[c]) == *value)
        };
        let pairs = others().flat_map(|a| others().map(move |b| (a, b)));
        let all = pairs.flat_map(|(a, b)| others().map(move |c| [a, b, c]));
        let distinct = |three: &[usize; 3]| three[0] != three[1] && three[1] != three[2];
        let found = all.filter(distinct).find(|three| fits(*three))?;
        Some(Way::FromThree(found.map(|time| self.times[time])))
    }
}

/// Units of times, in microseconds: each is a whole number of the next.
const UNITS: [u64; 3] = [1_000_000, 1_000, 1];

fn difference(value: u64, base: u64) -> u64 {
    folded(value.wrapping_sub(base).cast_signed())
}

fn put_residuals(
    residuals: &[u64],
    heads: &mut Vec<u8>,
    planes: &mut Vec<u8>,
    raw: &mut Vec<u8>,
    costs: &Costs,
) {
    let bounds = |(least, most): (u64, u64), next: &u64| (least.min(*next), most.max(*next));
    let (least, most) = residuals.iter().fold((u64::MAX, 0), bounds);
    let least = least.min(most);
    let bits = (u64::BITS - (most - least).leading_zeros()).max(1);
    let width = (u64::BITS - most.leading_zeros()).div_ceil(8).max(1);
    let packed_bits = u64::from(bits) * residuals.len() as u64;
    if bits <= PACKED_BITS_MAX && costs.reach(packed_bits, residuals, most) {
        heads.push(PACKED + u8::try_from(bits).expect("at most 56"));
        put_number(heads, least);
        pack(residuals.iter().map(|residual| residual - least), bits, raw);
        return;
    }
    heads.push(u8::try_from(width).expect("at most 8"));
    for plane in 0..width {
        planes.extend(residuals.iter().map(|residual| (residual >> (plane * 8)) as u8));
    }
}

fn pack(numbers: impl Iterator<Item = u64>, bits: u32, out: &mut Vec<u8>) {
    let (mut held, mut held_bits) = (0_u64, 0);
    for number in numbers {
        held |= number << held_bits;
        held_bits += bits;
        while held_bits >= 8 {
            out.push(held as u8);
            held >>= 8;
            held_bits -= 8;
        }
    }
    if held_bits > 0 {
        out.push(held as u8);
    }
}

/// What numbers take when planes of bytes are compressed: a guess by how often each byte comes.
#[derive(Debug)]
pub(super) struct Costs {
    /// For each count below its length: count × log₂ count, in 1/16 bits.
    counts: Vec<u64>,
}

impl Costs {
    const COUNTS: u32 = 4_096;

    pub(super) fn new() -> Self {
        let cost = |count: u32| (f64::from(count) * f64::from(count.max(1)).log2() * 16.0) as u64;
        Self { counts: (0..Self::COUNTS).map(cost).collect() }
    }

    /// Whether the planes of numbers, of which `most` is the greatest, take so many bits.
    fn reach(&self, bits: u64, residuals: &[u64], most: u64) -> bool {
        let mut sum = 0;
        let mut shifts =
            (0..u64::BITS).step_by(8).take_while(|shift| *shift == 0 || most >> shift > 0);
        shifts.any(|shift| {
            sum += self.plane_bits(residuals, shift, most >> shift);
            sum >= bits
        })
    }

    /// What the plane from a bit on takes, where no number of it is above `most`.
    fn plane_bits(&self, residuals: &[u64], shift: u32, most: u64) -> u64 {
        let mut counts = [0_u32; 256];
        for residual in residuals {
            counts[usize::from((residual >> shift) as u8)] += 1;
        }
        let counts = &counts[..=most.min(255) as usize];
        let all = self.of(u32::try_from(residuals.len()).unwrap_or(u32::MAX));
        let each: u64 = counts.iter().map(|count| self.of(*count)).sum();
        all.saturating_sub(each) / 16
    }

    fn of(&self, count: u32) -> u64 {
        let known = self.counts.get(count as usize).copied();
        known.unwrap_or_else(|| u64::from(count) * u64::from(count.ilog2()) * 16)
    }
}

/// Streams while they are read, again and again in the same memory.
#[derive(Debug, Default)]
pub(super) struct StreamsIn {
    streams: Vec<StreamIn>,
    heads: Vec<Head>,
    /// What is listed, stream by stream, and eight bytes more.
    listed: Vec<u8>,
    opened: usize,
}

#[derive(Debug)]
struct StreamIn {
    latest: u64,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Same(u64),
    Twin(StreamId),
    Listed { way: Way, rest: Listed },
}

/// The numbers of a stream, each in as few bytes as the greatest needs: one of each stream lies in
/// the cache then.
#[derive(Debug)]
struct Listed {
    at: Range<usize>,
    number_bytes: usize,
    mask: u64,
}

impl Listed {
    fn new(at: Range<usize>, number_bytes: usize) -> Self {
        Self { at, number_bytes, mask: u64::MAX >> (64 - 8 * number_bytes) }
    }

    #[inline]
    fn next(&mut self, listed: &[u8]) -> Option<u64> {
        if self.at.is_empty() {
            return None;
        }
        let eight = listed.get(self.at.start..)?.first_chunk()?;
        self.at.start += self.number_bytes;
        Some(u64::from_le_bytes(*eight) & self.mask)
    }
}

/// A stream whose head was read: what it holds, or how many planes of how many numbers come.
#[derive(Debug)]
enum Head {
    Whole(Content),
    Planes { way: Way, count: usize, width: usize },
}

impl StreamsIn {
    /// Reads all streams, and forgets those before. Of the raw area their bits are taken; the rest
    /// stays.
    pub(super) fn read(
        &mut self,
        numbers: &mut Source<'_>,
        raw: &mut Source<'_>,
    ) -> Result<(), ColumnsError> {
        let Self { streams, heads, listed, opened } = self;
        streams.clear();
        heads.clear();
        listed.clear();
        *opened = 0;
        let count = numbers.size()?;
        for _ in 0..count {
            heads.push(Head::read(numbers, count, raw, listed)?);
        }
        for head in heads.drain(..) {
            let content = match head {
                Head::Whole(content) => content,
                Head::Planes { way, count, width } => {
                    let bytes = count.checked_mul(width).ok_or(ColumnsError::Short)?;
                    let planes = numbers.take(bytes)?;
                    Content::Listed { way, rest: join_planes(planes, width, listed) }
                }
            };
            streams.push(StreamIn { latest: 0, content });
        }
        listed.extend_from_slice(&[0; 8]);
        Ok(())
    }

    /// The next stream: they are opened in the order in which they were written.
    pub(super) fn open(&mut self) -> Result<StreamId, ColumnsError> {
        if self.opened == self.streams.len() {
            return Err(ColumnsError::Malformed);
        }
        self.opened += 1;
        Ok(self.opened - 1)
    }

    /// The next number of a stream.
    #[inline]
    pub(super) fn next(&mut self, of: StreamId) -> Result<u64, ColumnsError> {
        let stream = self.streams.get_mut(of).ok_or(ColumnsError::Malformed)?;
        let value = match &mut stream.content {
            Content::Same(value) => {
                stream.latest = *value;
                return Ok(*value);
            }
            Content::Listed { way, rest } => {
                let residual = rest.next(&self.listed).ok_or(ColumnsError::Short)?;
                if *way == Way::Itself {
                    stream.latest = residual;
                    return Ok(residual);
                }
                let (way, last) = (*way, stream.latest);
                way.value(residual, last, |other| self.latest(other))
            }
            Content::Twin(twin) => {
                let twin = *twin;
                self.latest(twin)
            }
        };
        if let Some(stream) = self.streams.get_mut(of) {
            stream.latest = value;
        }
        Ok(value)
    }

    /// The next number of a stream, which counts what lies in memory.
    #[inline]
    pub(super) fn next_size(&mut self, of: StreamId) -> Result<usize, ColumnsError> {
        usize::try_from(self.next(of)?).map_err(|_| ColumnsError::Malformed)
    }

    fn latest(&self, stream: StreamId) -> u64 {
        self.streams.get(stream).map_or(0, |stream| stream.latest)
    }
}

impl Head {
    /// The head of a stream of `streams`.
    fn read(
        heads: &mut Source<'_>,
        streams: usize,
        raw: &mut Source<'_>,
        listed: &mut Vec<u8>,
    ) -> Result<Self, ColumnsError> {
        match heads.byte()? {
            SAME => Ok(Self::Whole(Content::Same(heads.number()?))),
            TWIN => {
                let twin = heads.size()?;
                if twin >= streams {
                    return Err(ColumnsError::Malformed);
                }
                Ok(Self::Whole(Content::Twin(twin)))
            }
            LISTED => {
                let count = heads.size()?;
                let way = Way::read(heads, streams)?;
                let coding = heads.byte()?;
                match coding.checked_sub(PACKED).map(u32::from) {
                    None if (1..=8).contains(&coding) => {
                        Ok(Self::Planes { way, count, width: usize::from(coding) })
                    }
                    Some(bits) if (1..=PACKED_BITS_MAX).contains(&bits) => {
                        let least = heads.number()?;
                        let all = count.checked_mul(bits as usize).ok_or(ColumnsError::Short)?;
                        let bytes = raw.take(all.div_ceil(8))?;
                        let rest = unpack(bytes, count, bits, least, listed);
                        Ok(Self::Whole(Content::Listed { way, rest }))
                    }
                    _ => Err(ColumnsError::Malformed),
                }
            }
            _ => Err(ColumnsError::Malformed),
        }
    }
}

/// Puts numbers whose bytes lie in so many planes, the lowest first, behind what is there.
fn join_planes(planes: &[u8], width: usize, out: &mut Vec<u8>) -> Listed {
    let start = out.len();
    if width == 1 {
        out.extend_from_slice(planes);
    } else {
        out.resize(start + planes.len(), 0);
        let numbers = out.get_mut(start..).unwrap_or_default();
        for (plane, bytes) in planes.chunks_exact((planes.len() / width).max(1)).enumerate() {
            for (number, byte) in numbers.chunks_exact_mut(width).zip(bytes) {
                number[plane] = *byte;
            }
        }
    }
    Listed::new(start..out.len(), width)
}

/// The other way of [`pack`].
fn unpack(bytes: &[u8], count: usize, bits: u32, least: u64, out: &mut Vec<u8>) -> Listed {
    let mask = (1 << bits) - 1;
    let number_bytes = least
        .checked_add(mask)
        .map_or(8, |most| (u64::BITS - most.leading_zeros()).div_ceil(8) as usize);
    let start = out.len();
    let end = start + count * number_bytes;
    // Of eight bytes that are written the next number takes back those that are too many.
    out.resize(end + 8, 0);
    for at in 0..count {
        let bit = at * bits as usize;
        let held = eight_bytes(bytes.get(bit / 8..).unwrap_or_default()) >> (bit % 8);
        let number = least.wrapping_add(held & mask).to_le_bytes();
        let place = out.get_mut(start + at * number_bytes..);
        if let Some(place) = place.and_then(|place| place.first_chunk_mut()) {
            *place = number;
        }
    }
    out.truncate(end);
    Listed::new(start..end, number_bytes)
}

/// The first eight bytes as a number, zeros where there are fewer.
fn eight_bytes(bytes: &[u8]) -> u64 {
    match bytes.first_chunk() {
        Some(eight) => u64::from_le_bytes(*eight),
        None => bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)),
    }
}
