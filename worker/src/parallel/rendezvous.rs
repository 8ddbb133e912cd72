//! How the ranks of an attempt find each other.
//!
//! ```text
//! rank r:  join(key, r, size, port of its own listener) -> rank 0
//! rank 0:  addresses of all listeners -> everyone, once all are there; or a refusal with its reason
//! rank r:  link(key, r, size) -> the listener of each lower rank r ^ bit; rank 0 keeps the connections that joined
//! ```
//!
//! The key names one attempt of one run, so a rank that a dead attempt left behind is refused. Whatever else connects is dropped: what it sends is
//! bounded in size and in time.

use super::tcp::{Link, Tcp};
use crate::error::{Error, Result};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

const MAGIC: [u8; 8] = *b"fathomR1";
/// Longest key or refusal, in bytes.
const MAX_TEXT: usize = 1024;
/// A greeting is a few bytes; who has connected sends them within this time.
const GREETING: Duration = Duration::from_secs(2);
/// Longest wait for one connection.
const CONNECT: Duration = Duration::from_secs(2);
/// Pause between attempts, and a bit more that differs from rank to rank.
const PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Where rank 0 is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A file that rank 0 writes its address to: ranks of one machine.
    File(PathBuf),
    /// `HOST:PORT`, where rank 0 listens on the port; the name may not resolve yet.
    Address(String),
}

/// A group that is to be formed.
#[derive(Clone, Debug)]
pub struct Rendezvous {
    /// Where rank 0 is found.
    pub place: Place,
    /// Names the attempt; others are refused.
    pub key: String,
    /// This rank, from 0.
    pub rank: usize,
    /// Number of ranks, a power of two.
    pub size: usize,
    /// How long the others are waited for.
    pub deadline: Duration,
}

/// Forms the group.
///
/// # Errors
/// [`Error::Rendezvous`] if not all ranks are there in time or this one is refused, [`Error::Stopped`] if `stop` says so meanwhile.
pub fn connect(rendezvous: &Rendezvous, stop: &dyn Fn() -> bool) -> Result<Tcp> {
    let Rendezvous {
        place,
        rank,
        size,
        deadline,
        ..
    } = rendezvous;
    if !size.is_power_of_two() || rank >= size {
        return Err(Error::Config {
            problem: format!("rank {rank} of {size}"),
            cure: "the number of ranks is a power of two, and ranks count from 0".into(),
        });
    }
    if *size == 1 {
        return Ok(Tcp::new(0, Vec::new()));
    }
    let meeting = Meeting {
        rendezvous,
        listener: listen(place, *rank)?,
        end: Instant::now() + *deadline,
        stop,
    };
    let mut links = Vec::new();
    if *rank == 0 {
        let joined = meeting.gather()?;
        for (rank, guest) in (1_usize..).zip(joined) {
            if rank.is_power_of_two() {
                links.push(link(rank, guest.stream)?);
            }
        }
    } else {
        let (first, addresses) = meeting.join()?;
        let mut first = Some(first);
        for bit in (0..size.trailing_zeros()).rev() {
            let peer = rank ^ 1 << bit;
            if peer == 0 {
                links.extend(first.take().map(|stream| link(0, stream)).transpose()?);
            } else if peer < *rank {
                links.push(link(peer, meeting.call(addresses[peer])?)?);
            }
        }
        let higher = (0..size.trailing_zeros())
            .map(|bit| rank ^ 1 << bit)
            .filter(|peer| peer > rank)
            .collect();
        links.extend(meeting.answer(higher)?);
        links.sort_by_key(|link| link.rank() ^ rank);
    }
    Ok(Tcp::new(*rank, links))
}

fn link(rank: usize, stream: TcpStream) -> Result<Link> {
    Link::new(rank, stream).map_err(|source| Error::Rendezvous {
        problem: format!("the connection to rank {rank} broke ({source})"),
        cure: "run it again".into(),
    })
}

/// A listener for other ranks; that of rank 0 is where it is looked for.
fn listen(place: &Place, rank: usize) -> Result<TcpListener> {
    let address = match place {
        Place::File(_) => SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        Place::Address(address) if rank == 0 => {
            let port = address.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
            let port = port.ok_or_else(|| Error::Config {
                problem: format!("the rendezvous address `{address}` names no port"),
                cure: "write it as HOST:PORT".into(),
            })?;
            SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))
        }
        Place::Address(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
    };
    let bound = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        if let (Place::File(path), 0) = (place, rank) {
            write_address(path, listener.local_addr()?)?;
        }
        Ok(listener)
    });
    bound.map_err(|source| Error::Rendezvous {
        problem: format!("cannot listen on {address} for other ranks ({source})"),
        cure: "free the port, or name another".into(),
    })
}

/// Readers see the address or no file.
fn write_address(path: &Path, address: SocketAddr) -> io::Result<()> {
    let aside = path.with_extension("new");
    std::fs::write(&aside, address.to_string())?;
    std::fs::rename(&aside, path)
}

/// What a rank says when it connects.
#[derive(Debug, PartialEq, Eq)]
struct Greeting {
    key: String,
    rank: usize,
    size: usize,
    /// Of its listener; 0 in a connection that becomes a link.
    port: u16,
}

impl Greeting {
    fn write(&self, stream: &mut impl Write) -> io::Result<()> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend((self.rank as u32).to_le_bytes());
        bytes.extend((self.size as u32).to_le_bytes());
        bytes.extend(self.port.to_le_bytes());
        write_text(&mut bytes, &self.key)?;
        stream.write_all(&bytes)
    }

    fn read(stream: &mut impl Read) -> io::Result<Self> {
        if array::<8>(stream)? != MAGIC {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a rank of this version"));
        }
        Ok(Self {
            rank: u32::from_le_bytes(array(stream)?) as usize,
            size: u32::from_le_bytes(array(stream)?) as usize,
            port: u16::from_le_bytes(array(stream)?),
            key: read_text(stream)?,
        })
    }
}

fn array<const N: usize>(stream: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn write_text(bytes: &mut Vec<u8>, text: &str) -> io::Result<()> {
    if text.len() > MAX_TEXT {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("a text of {} bytes", text.len()),
        ));
    }
    bytes.extend((text.len() as u16).to_le_bytes());
    bytes.extend(text.as_bytes());
    Ok(())
}

fn read_text(stream: &mut impl Read) -> io::Result<String> {
    let len = usize::from(u16::from_le_bytes(array(stream)?));
    if len > MAX_TEXT {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a text of {len} bytes")));
    }
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes)?;
    String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// An answer to who joins: the addresses of the listeners, or why it may not.
type Answer = std::result::Result<Vec<SocketAddr>, String>;

fn write_answer(stream: &mut impl Write, answer: &Answer) -> io::Result<()> {
    let mut bytes = Vec::new();
    match answer {
        Ok(addresses) => {
            bytes.extend((addresses.len() as u32).to_le_bytes());
            addresses
                .iter()
                .try_for_each(|address| write_text(&mut bytes, &address.to_string()))?;
        }
        Err(reason) => {
            bytes.extend(0_u32.to_le_bytes());
            write_text(&mut bytes, reason)?;
        }
    }
    stream.write_all(&bytes)
}

fn read_answer(stream: &mut impl Read, size: usize) -> io::Result<Answer> {
    let count = u32::from_le_bytes(array(stream)?) as usize;
    if count == 0 {
        return read_text(stream).map(Err);
    }
    if count != size {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{count} addresses of {size} ranks"),
        ));
    }
    let parse = |text: String| text.parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error));
    (0..count)
        .map(|_| read_text(stream).and_then(parse))
        .collect::<io::Result<_>>()
        .map(Ok)
}

/// A rank that has joined.
struct Guest {
    stream: TcpStream,
    /// Of its listener.
    address: SocketAddr,
}

/// A rendezvous under way.
struct Meeting<'a> {
    rendezvous: &'a Rendezvous,
    listener: TcpListener,
    end: Instant,
    stop: &'a dyn Fn() -> bool,
}

impl Meeting<'_> {
    /// Whether there is time left; `missing` says what for.
    fn check(&self, missing: impl FnOnce() -> String) -> Result<()> {
        if (self.stop)() {
            return Err(Error::Stopped);
        }
        if Instant::now() < self.end {
            return Ok(());
        }
        Err(Error::Rendezvous {
            problem: format!("{} within {} s", missing(), self.rendezvous.deadline.as_secs()),
            cure: "look at the logs of the other ranks, and whether they can reach rank 0".into(),
        })
    }

    fn greeting(&self, port: u16) -> Greeting {
        let Rendezvous { key, rank, size, .. } = self.rendezvous;
        Greeting {
            key: key.clone(),
            rank: *rank,
            size: *size,
            port,
        }
    }

    /// The next connection with its greeting, if there is one and it is from this group.
    fn accept(&self) -> Option<(TcpStream, SocketAddr, Greeting)> {
        let (mut stream, address) = self.listener.accept().ok()?;
        let mut greet = || {
            stream.set_nonblocking(false)?;
            stream.set_read_timeout(Some(GREETING))?;
            stream.set_write_timeout(Some(GREETING))?;
            Greeting::read(&mut stream)
        };
        let greeting = match greet() {
            Ok(greeting) => greeting,
            Err(error) => {
                eprintln!("a connection from {address} is no rank: {error}");
                return None;
            }
        };
        let Rendezvous { key, rank, size, .. } = self.rendezvous;
        let refusal = if greeting.key != *key {
            Some(format!("it belongs to `{}`, this is `{key}`", greeting.key))
        } else if greeting.size != *size || greeting.rank >= *size || greeting.rank == *rank {
            Some(format!(
                "it is rank {} of {}, this is rank {rank} of {size}",
                greeting.rank, greeting.size
            ))
        } else {
            None
        };
        if let Some(reason) = refusal {
            eprintln!("a rank at {address} is refused: {reason}");
            // It learns why, if it still listens.
            let _gone = write_answer(&mut stream, &Err(reason));
            return None;
        }
        Some((stream, address, greeting))
    }

    /// Rank 0: waits for all others, in their order, and tells each where the others are.
    fn gather(&self) -> Result<Vec<Guest>> {
        let size = self.rendezvous.size;
        let mut guests: Vec<Option<Guest>> = (1..size).map(|_| None).collect();
        while guests.iter().any(Option::is_none) {
            self.check(|| {
                let missing = (1..size).zip(&guests).filter(|(_, guest)| guest.is_none());
                let missing: Vec<_> = missing.map(|(rank, _)| rank.to_string()).collect();
                format!("rank {} of {size} did not come", missing.join(", "))
            })?;
            match self.accept() {
                // One that joins again has lost its first connection.
                Some((stream, from, greeting)) if greeting.port != 0 => {
                    guests[greeting.rank - 1] = Some(Guest {
                        stream,
                        address: SocketAddr::new(from.ip(), greeting.port),
                    });
                }
                Some(_) => {}
                None => sleep(PAUSE),
            }
        }
        let mut guests: Vec<Guest> = guests.into_iter().flatten().collect();
        // Nobody connects to rank 0 again.
        let own = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        let addresses: Answer = Ok(std::iter::once(own).chain(guests.iter().map(|guest| guest.address)).collect());
        for (rank, guest) in (1..).zip(&mut guests) {
            write_answer(&mut guest.stream, &addresses).map_err(|source| Error::Rendezvous {
                problem: format!("rank {rank} came and went ({source})"),
                cure: "look at its log, and run it again".into(),
            })?;
        }
        Ok(guests)
    }

    /// Another rank: joins at rank 0, and learns where the others are.
    fn join(&self) -> Result<(TcpStream, Vec<SocketAddr>)> {
        let rank = self.rendezvous.rank;
        let port = self
            .listener
            .local_addr()
            .map(|address| address.port())
            .map_err(|source| Error::Rendezvous {
                problem: format!("the listener has no address ({source})"),
                cure: "run it again".into(),
            })?;
        let mut pause = PAUSE;
        let mut last = "its address is not known".to_owned();
        loop {
            self.check(|| format!("rank 0 was not reached ({last})"))?;
            let joined = self.address_of_first().and_then(|address| {
                let mut stream = TcpStream::connect_timeout(&address, CONNECT)?;
                stream.set_write_timeout(Some(GREETING))?;
                self.greeting(port).write(&mut stream)?;
                Ok(stream)
            });
            let answered = match joined {
                Ok(mut stream) => self.wait_for_answer(&mut stream)?.map(|answer| (stream, answer)),
                Err(error) => Err(error),
            };
            match answered {
                Ok((stream, Ok(addresses))) => return Ok((stream, addresses)),
                Ok((_, Err(reason))) => {
                    return Err(Error::Rendezvous {
                        problem: format!("rank 0 refused rank {rank}: {reason}"),
                        cure: "a rank of another attempt; nothing is to be done".into(),
                    });
                }
                Err(error) => last = error.to_string(),
            }
            // Names that do not exist yet are looked up again, but not by all ranks at once.
            sleep(pause + PAUSE * (rank as u32 % 16) / 16);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// The answer of rank 0 comes when all are there.
    fn wait_for_answer(&self, stream: &mut TcpStream) -> Result<io::Result<Answer>> {
        loop {
            self.check(|| "not all ranks came".into())?;
            let waited = stream.set_read_timeout(Some(PAUSE)).and_then(|()| stream.peek(&mut [0]));
            match waited {
                Ok(_) => break,
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                Err(error) => return Ok(Err(error)),
            }
        }
        let answer = stream
            .set_read_timeout(Some(GREETING))
            .and_then(|()| read_answer(stream, self.rendezvous.size));
        Ok(answer)
    }

    fn address_of_first(&self) -> io::Result<SocketAddr> {
        let nothing = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        match &self.rendezvous.place {
            Place::File(path) => std::fs::read_to_string(path)?
                .parse()
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)),
            Place::Address(address) => address.to_socket_addrs()?.next().ok_or_else(nothing),
        }
    }

    /// A connection to the listener of a lower rank.
    fn call(&self, address: SocketAddr) -> Result<TcpStream> {
        let called = TcpStream::connect_timeout(&address, CONNECT).and_then(|mut stream| {
            self.greeting(0).write(&mut stream)?;
            Ok(stream)
        });
        called.map_err(|source| Error::Rendezvous {
            problem: format!("the rank at {address} has joined and cannot be reached ({source})"),
            cure: "let the ranks connect to each other on any port, and run it again".into(),
        })
    }

    /// Waits for the connections of higher ranks.
    fn answer(&self, mut expected: Vec<usize>) -> Result<Vec<Link>> {
        let mut links = Vec::new();
        while !expected.is_empty() {
            self.check(|| format!("rank {} has joined and did not connect to this one", expected[0]))?;
            match self.accept() {
                Some((stream, _, greeting)) if expected.contains(&greeting.rank) => {
                    expected.retain(|&rank| rank != greeting.rank);
                    links.push(link(greeting.rank, stream)?);
                }
                Some(_) => {}
                None => sleep(PAUSE / 10),
            }
        }
        Ok(links)
    }
}
