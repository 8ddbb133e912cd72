//! Collective operations over TCP, on links between ranks whose numbers differ in one bit.
//!
//! ```text
//! all_reduce of N elements, rank r:
//!   for each bit, lowest first:      halves of my range; one is sent to r ^ bit, and its values for the other are added to mine
//!   for each bit, highest first:     my range is sent to r ^ bit, and its range replaces mine there
//! ```
//!
//! Every rank sends and receives `2 N (R - 1) / R` elements, the least there can be (Rabenseifner, 2004). With the lowest bit first each element
//! is added up along the tree of neighbours; a sum of two is the same bits on both sides, and only one of them computes it.

use crate::error::{Error, Result};
use bytemuck::{cast_slice, cast_slice_mut};
use fathom_kernels::{Comm, Cpu};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::ops::Range;
use std::time::Duration;

/// Values that are received before they are added: 256 KiB, which stay in the L2 cache.
const CHUNK: usize = 1 << 16;
/// Ranges begin at multiples of it: a cache line.
const ALIGN: usize = 16;
/// Longest pause of a rank that is alive: it may validate or write a checkpoint while the others wait.
const PATIENCE: Duration = Duration::from_secs(1800);
/// Largest contribution to a gathering, in bytes: what a rank announces is not believed beyond it.
const MAX_GATHERED: u64 = 64 << 20;
/// A host that is gone answers no probe: noticed after 3 + 5 x 1 seconds.
const PROBE_AFTER: Duration = Duration::from_secs(3);
const PROBE_EVERY: Duration = Duration::from_secs(1);
const PROBES: u32 = 5;
/// While data is under way there are no probes: then this is how long it may stay unread.
#[cfg(target_os = "linux")]
const UNREAD: Duration = Duration::from_secs(20);

/// A connection to another rank.
#[derive(Debug)]
pub(super) struct Link {
    rank: usize,
    address: SocketAddr,
    stream: TcpStream,
}

impl Link {
    /// A connection that both sides have agreed on.
    pub(super) fn new(rank: usize, stream: TcpStream) -> io::Result<Self> {
        let address = stream.peer_addr()?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        rustix::net::sockopt::set_socket_keepalive(&stream, true)?;
        rustix::net::sockopt::set_tcp_keepidle(&stream, PROBE_AFTER)?;
        rustix::net::sockopt::set_tcp_keepintvl(&stream, PROBE_EVERY)?;
        rustix::net::sockopt::set_tcp_keepcnt(&stream, PROBES)?;
        #[cfg(target_os = "linux")]
        rustix::net::sockopt::set_tcp_user_timeout(&stream, UNREAD.as_millis() as u32)?;
        Ok(Self { rank, address, stream })
    }

    /// The rank at the other end.
    pub(super) const fn rank(&self) -> usize {
        self.rank
    }

    fn lost(&self, source: io::Error) -> Error {
        Error::PeerLost {
            rank: self.rank,
            address: self.address.to_string(),
            source,
        }
    }

    /// Sends `parts` while `receive` takes what the other rank sends: neither waits for the other to read. Before, both say that they are there: a rank that
    /// computes for minutes leaves no data unread, so what stays unread is a rank that is lost.
    fn exchange<R>(&self, head: Head, parts: &[&[u8]], receive: impl FnOnce(Head, &mut &TcpStream) -> io::Result<R>) -> Result<R> {
        let mut stream = &self.stream;
        let send = || {
            let mut stream = &self.stream;
            parts.iter().try_for_each(|part| stream.write_all(part))
        };
        let both = || {
            stream.write_all(&head.bytes())?;
            let theirs = Head::read(&mut stream)?;
            std::thread::scope(|scope| {
                let sender = scope.spawn(send);
                let received = receive(theirs, &mut stream);
                if received.is_err() {
                    // The sender may wait for a rank that reads no more.
                    let _already_closed = self.stream.shutdown(Shutdown::Both);
                }
                let sent = sender.join().map_err(|_| io::Error::other("the sending thread panicked"))?;
                received.and_then(|received| sent.map(|()| received))
            })
        };
        both().map_err(|source| self.lost(source))
    }
}

/// What precedes the bytes of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    /// Operations before this one.
    operation: u64,
    /// Bytes that follow.
    len: u64,
}

impl Head {
    const LEN: usize = 16;

    fn bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&self.operation.to_le_bytes());
        bytes[8..].copy_from_slice(&self.len.to_le_bytes());
        bytes
    }

    fn read(stream: &mut impl Read) -> io::Result<Self> {
        let mut bytes = [0; Self::LEN];
        stream.read_exact(&mut bytes)?;
        let number = |range: Range<usize>| u64::from_le_bytes(bytes[range].try_into().expect("eight bytes"));
        Ok(Self {
            operation: number(0..8),
            len: number(8..16),
        })
    }

    /// Refuses what belongs to another operation: the ranks do not run the same program.
    fn expect(self, expected: Self) -> io::Result<()> {
        if self == expected {
            return Ok(());
        }
        let problem = format!(
            "it is at operation {} with {} bytes, this rank at {} with {}: the ranks execute different work",
            self.operation, self.len, expected.operation, expected.len
        );
        Err(io::Error::new(io::ErrorKind::InvalidData, problem))
    }
}

/// A rank's links to the others of its group.
#[derive(Debug)]
pub struct Tcp {
    rank: usize,
    /// To `rank ^ 1`, `rank ^ 2`, `rank ^ 4`, ...
    links: Vec<Link>,
    operations: u64,
    received: Vec<f32>,
}

impl Tcp {
    /// A rank with its links, the lowest bit first.
    pub(super) const fn new(rank: usize, links: Vec<Link>) -> Self {
        Self {
            rank,
            links,
            operations: 0,
            received: Vec::new(),
        }
    }

    /// The only rank of its group.
    #[must_use]
    pub const fn alone() -> Self {
        Self::new(0, Vec::new())
    }

    const fn has(&self, bit: usize) -> bool {
        self.rank & 1 << bit != 0
    }

    fn begin(&mut self) -> u64 {
        self.operations += 1;
        self.operations
    }

    /// [`Comm::all_reduce`] of memory of this process.
    ///
    /// # Errors
    /// As there.
    pub fn all_reduce(&mut self, buffers: &mut [&mut [f32]]) -> Result<()> {
        let operation = self.begin();
        let len = buffers.iter().map(|buffer| buffer.len()).sum();
        let mut received = std::mem::take(&mut self.received);
        received.resize(CHUNK, 0.0);
        let mut ranges = Vec::new();
        ranges.push(0..len);
        for (bit, link) in self.links.iter().enumerate() {
            let range = ranges[bit].clone();
            let middle = range.start + (range.len() / 2).next_multiple_of(ALIGN).min(range.len());
            let (low, high) = parts(buffers, range.clone(), middle);
            let (given, kept, own) = if self.has(bit) {
                (low, high, middle..range.end)
            } else {
                (high, low, range.start..middle)
            };
            let (given, mut kept) = (given.iter().map(|part| cast_slice(part)).collect::<Vec<&[u8]>>(), kept);
            let head = |len: usize| Head {
                operation,
                len: 4 * len as u64,
            };
            link.exchange(head(range.len() - own.len()), &given, |theirs, stream| {
                theirs.expect(head(own.len()))?;
                for chunk in kept.iter_mut().flat_map(|part| part.chunks_mut(CHUNK)) {
                    let received = &mut received[..chunk.len()];
                    stream.read_exact(cast_slice_mut(received))?;
                    for (value, received) in chunk.iter_mut().zip(received) {
                        *value += *received;
                    }
                }
                Ok(())
            })?;
            ranges.push(own);
        }
        self.received = received;
        for (bit, link) in self.links.iter().enumerate().rev() {
            let (range, own) = (ranges[bit].clone(), ranges[bit + 1].clone());
            let (low, high) = parts(buffers, range.clone(), if self.has(bit) { own.start } else { own.end });
            let (given, mut taken) = if self.has(bit) { (high, low) } else { (low, high) };
            let given: Vec<&[u8]> = given.iter().map(|part| cast_slice(part)).collect();
            let head = |len: usize| Head {
                operation,
                len: 4 * len as u64,
            };
            link.exchange(head(own.len()), &given, |theirs, stream| {
                theirs.expect(head(range.len() - own.len()))?;
                taken.iter_mut().try_for_each(|part| stream.read_exact(cast_slice_mut(part)))
            })?;
        }
        Ok(())
    }

    /// [`Comm::all_gather`].
    ///
    /// # Errors
    /// As there.
    pub fn all_gather(&mut self, mine: &[u8]) -> Result<Vec<Vec<u8>>> {
        let operation = self.begin();
        let mut gathered: Vec<Vec<u8>> = vec![Vec::new(); self.size()];
        gathered[self.rank] = mine.to_vec();
        for (bit, link) in self.links.iter().enumerate() {
            // Both sides have what all ranks of their half of a group of 2^(bit + 1) gave.
            let half = 1 << bit;
            let first = |rank: usize| rank / half * half;
            let (mine, theirs) = (first(self.rank), first(link.rank));
            let lengths: Vec<[u8; 8]> = gathered[mine..mine + half]
                .iter()
                .map(|bytes| (bytes.len() as u64).to_le_bytes())
                .collect();
            let mut parts: Vec<&[u8]> = lengths.iter().map(<[u8; 8]>::as_slice).collect();
            parts.extend(gathered[mine..mine + half].iter().map(Vec::as_slice));
            let len = parts.iter().map(|part| part.len() as u64).sum();
            let received = link.exchange(Head { operation, len }, &parts, |head, stream| {
                head.expect(Head { operation, len: head.len })?;
                let mut lengths = vec![[0; 8]; half];
                stream.read_exact(lengths.as_flattened_mut())?;
                lengths
                    .into_iter()
                    .map(u64::from_le_bytes)
                    .map(|len| read(stream, len))
                    .collect::<io::Result<Vec<_>>>()
            })?;
            gathered.splice(theirs..theirs + half, received);
        }
        Ok(gathered)
    }

    /// Number of ranks.
    pub const fn size(&self) -> usize {
        1 << self.links.len()
    }
}

/// `len` bytes.
fn read(stream: &mut impl Read, len: u64) -> io::Result<Vec<u8>> {
    if len > MAX_GATHERED {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("it announces {len} bytes, more than {MAX_GATHERED}"),
        ));
    }
    let mut bytes = vec![0; len as usize];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// What `range` holds of the buffers, taken as one, before and from `middle`.
fn parts<'a>(buffers: &'a mut [&mut [f32]], range: Range<usize>, middle: usize) -> (Vec<&'a mut [f32]>, Vec<&'a mut [f32]>) {
    let (mut low, mut high) = (Vec::new(), Vec::new());
    let mut start = 0;
    for buffer in buffers {
        let len = buffer.len();
        let inside = |index: usize| index.clamp(start, start + len) - start;
        let (first, middle, last) = (inside(range.start), inside(middle), inside(range.end));
        let (before, after) = buffer[first..last].split_at_mut(middle - first);
        low.push(before);
        high.push(after);
        start += len;
    }
    (low, high)
}

impl Comm<Cpu> for Tcp {
    type Error = Error;

    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size()
    }

    fn all_reduce(&mut self, _: &Cpu, buffers: &mut [&mut Vec<f32>]) -> Result<()> {
        let mut slices: Vec<&mut [f32]> = buffers.iter_mut().map(|buffer| buffer.as_mut_slice()).collect();
        self.all_reduce(&mut slices)
    }

    fn all_gather(&mut self, mine: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.all_gather(mine)
    }
}
