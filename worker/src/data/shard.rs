//! Token shards in Megatron's format: `PREFIX.bin` holds tokens, `PREFIX.idx` where sequences and documents begin.
//!
//! `.idx`, little endian: magic `MMIDIDX\0\0`, u64 version 1, u8 type code (8: u16, 4: i32), u64 sequences, u64 document boundaries,
//! one i32 length (in tokens) per sequence, one i64 offset (in bytes) per sequence, the boundaries as i64 sequence numbers, from 0.
//!
//! Fathom's convention inside it: a *document* of the index is one training row of exactly `T + 1` tokens, and its *sequences* are the
//! fragments of texts that it was packed from. Megatron's reader sees ordinary documents; the trainer reads a row by its number with one
//! positioned read, since rows are equally long and lie one after the other.

use crate::error::{Error, Result};
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 9] = b"MMIDIDX\0\0";
const VERSION: u64 = 1;
/// Vocabularies below this size are stored in 16 bits, as Megatron does.
const U16_LIMIT: u32 = 65_500;
/// Buffer of the writers.
const BUFFER: usize = 1 << 18;

/// How a token is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenType {
    /// 16 bits without sign, code 8.
    U16,
    /// 32 bits with sign, code 4.
    I32,
}

impl TokenType {
    /// The type for a vocabulary of this size.
    #[must_use]
    pub fn for_vocabulary(size: u32) -> Self {
        if size < U16_LIMIT { Self::U16 } else { Self::I32 }
    }

    /// Bytes per token.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::U16 => 2,
            Self::I32 => 4,
        }
    }

    /// Name of the type in `numpy`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::U16 => "uint16",
            Self::I32 => "int32",
        }
    }

    fn code(self) -> u8 {
        match self {
            Self::U16 => 8,
            Self::I32 => 4,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        match code {
            8 => Some(Self::U16),
            4 => Some(Self::I32),
            _ => None,
        }
    }

    /// Appends tokens in their stored form.
    pub(crate) fn store(self, tokens: &[u32], bytes: &mut Vec<u8>) {
        match self {
            Self::U16 => bytes.extend(tokens.iter().flat_map(|&token| (token as u16).to_le_bytes())),
            Self::I32 => bytes.extend(tokens.iter().flat_map(|&token| token.to_le_bytes())),
        }
    }

    /// Reads tokens from their stored form; `bytes` holds exactly `tokens.len()` of them.
    pub(crate) fn load(self, bytes: &[u8], tokens: &mut [u32]) {
        match self {
            Self::U16 => {
                for (token, two) in tokens.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *token = u32::from(u16::from_le_bytes(*two));
                }
            }
            Self::I32 => {
                for (token, four) in tokens.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *token = u32::from_le_bytes(*four);
                }
            }
        }
    }
}

fn with_extension(prefix: &Path, extension: &str) -> PathBuf {
    let mut name = prefix.as_os_str().to_owned();
    name.push(extension);
    name.into()
}

/// Writes a shard. Lengths are kept in memory until the end: 4 bytes per fragment and 8 per row.
pub struct ShardWriter {
    token_type: TokenType,
    bin: BufWriter<File>,
    bin_path: PathBuf,
    idx_path: PathBuf,
    lengths: Vec<u32>,
    boundaries: Vec<u64>,
}

impl ShardWriter {
    /// Creates `PREFIX.bin` and, at the end, `PREFIX.idx`. Existing files are replaced.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create(prefix: &Path, token_type: TokenType) -> Result<Self> {
        let bin_path = with_extension(prefix, ".bin");
        let file = File::create(&bin_path).map_err(Error::io("create", &bin_path))?;
        Ok(Self {
            token_type,
            bin: BufWriter::with_capacity(BUFFER, file),
            bin_path,
            idx_path: with_extension(prefix, ".idx"),
            lengths: Vec::new(),
            boundaries: vec![0],
        })
    }

    /// Appends one fragment, in its stored form, to the current document.
    ///
    /// # Errors
    /// [`Error::Io`], disk full included.
    pub fn fragment(&mut self, stored: &[u8]) -> Result<()> {
        self.bin.write_all(stored).map_err(Error::io("write", &self.bin_path))?;
        let length = stored.len() / self.token_type.bytes();
        self.lengths
            .push(u32::try_from(length).expect("a fragment is no longer than a row"));
        Ok(())
    }

    /// Ends the current document.
    pub fn end_document(&mut self) {
        self.boundaries.push(self.lengths.len() as u64);
    }

    /// Writes the index.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn finish(mut self) -> Result<()> {
        self.bin.flush().map_err(Error::io("write", &self.bin_path))?;
        let file = File::create(&self.idx_path).map_err(Error::io("create", &self.idx_path))?;
        let mut idx = BufWriter::with_capacity(BUFFER, file);
        self.write_index(&mut idx)
            .and_then(|()| idx.flush())
            .map_err(Error::io("write", &self.idx_path))
    }

    fn write_index(&self, idx: &mut impl Write) -> std::io::Result<()> {
        idx.write_all(MAGIC)?;
        idx.write_all(&VERSION.to_le_bytes())?;
        idx.write_all(&[self.token_type.code()])?;
        idx.write_all(&(self.lengths.len() as u64).to_le_bytes())?;
        idx.write_all(&(self.boundaries.len() as u64).to_le_bytes())?;
        for length in &self.lengths {
            idx.write_all(&length.to_le_bytes())?;
        }
        let mut offset = 0_u64;
        for &length in &self.lengths {
            idx.write_all(&offset.to_le_bytes())?;
            offset += u64::from(length) * self.token_type.bytes() as u64;
        }
        for boundary in &self.boundaries {
            idx.write_all(&boundary.to_le_bytes())?;
        }
        Ok(())
    }
}

/// The rows of a shard. Reading is by position and needs no lock.
#[derive(Debug)]
pub struct Rows {
    bin: File,
    bin_path: PathBuf,
    token_type: TokenType,
    rows: usize,
    row_tokens: usize,
}

impl Rows {
    /// Opens `PREFIX.bin` and `PREFIX.idx`. The index is checked in one pass, in constant memory.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be read, [`Error::Data`] if the two are no shard of equally long rows.
    pub fn open(prefix: &Path) -> Result<Self> {
        let (bin_path, idx_path) = (with_extension(prefix, ".bin"), with_extension(prefix, ".idx"));
        let bin = File::open(&bin_path).map_err(Error::io("open", &bin_path))?;
        let bin_bytes = bin.metadata().map_err(Error::io("read", &bin_path))?.len();
        let header = Header::read(&idx_path)?;
        let rows = header.boundaries - 1;
        let tokens = bin_bytes / header.token_type.bytes() as u64;
        let row_tokens = tokens.checked_div(rows).unwrap_or(0);
        if row_tokens * rows * header.token_type.bytes() as u64 != bin_bytes {
            return Err(damaged(
                &bin_path,
                format!("its {bin_bytes} bytes are not {rows} rows of one length"),
            ));
        }
        header.check_rows(&idx_path, row_tokens)?;
        Ok(Self {
            bin,
            bin_path,
            token_type: header.token_type,
            rows: rows as usize,
            row_tokens: row_tokens as usize,
        })
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there are no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Tokens per row, `T + 1`; 0 if there are no rows.
    #[must_use]
    pub fn row_tokens(&self) -> usize {
        self.row_tokens
    }

    /// How tokens are stored.
    #[must_use]
    pub fn token_type(&self) -> TokenType {
        self.token_type
    }

    /// Reads row `row` into `tokens`, which holds [`Rows::row_tokens`] of them. O(1): one positioned read.
    ///
    /// # Errors
    /// [`Error::Io`].
    ///
    /// # Panics
    /// If there is no such row or `tokens` has another length.
    pub fn read(&self, row: usize, tokens: &mut [u32]) -> Result<()> {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        assert_eq!(tokens.len(), self.row_tokens, "a buffer of one row");
        let mut stored = vec![0; self.row_tokens * self.token_type.bytes()];
        let offset = row as u64 * stored.len() as u64;
        self.bin
            .read_exact_at(&mut stored, offset)
            .map_err(Error::io("read", &self.bin_path))?;
        self.token_type.load(&stored, tokens);
        Ok(())
    }
}

struct Header {
    token_type: TokenType,
    sequences: u64,
    boundaries: u64,
}

const HEADER_BYTES: u64 = 9 + 8 + 1 + 8 + 8;

impl Header {
    fn read(path: &Path) -> Result<Self> {
        let mut file = File::open(path).map_err(Error::io("open", path))?;
        let length = file.metadata().map_err(Error::io("read", path))?.len();
        let mut bytes = [0; HEADER_BYTES as usize];
        file.read_exact(&mut bytes).map_err(Error::io("read", path))?;
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        if &bytes[..9] != MAGIC || word(9) != VERSION {
            return Err(damaged(path, "it is not a Megatron index of version 1".into()));
        }
        let token_type =
            TokenType::from_code(bytes[17]).ok_or_else(|| damaged(path, format!("its type code {} is not of tokens", bytes[17])))?;
        let header = Self {
            token_type,
            sequences: word(18),
            boundaries: word(26),
        };
        let expected = header.sequences.checked_mul(12).zip(header.boundaries.checked_mul(8));
        let expected = expected.and_then(|(sequences, boundaries)| sequences.checked_add(boundaries)?.checked_add(HEADER_BYTES));
        if header.boundaries == 0 || expected != Some(length) {
            return Err(damaged(path, format!("its {length} bytes do not hold what its header announces")));
        }
        Ok(header)
    }

    /// Checks that the sequences of each document sum to one row.
    fn check_rows(&self, path: &Path, row_tokens: u64) -> Result<()> {
        let open = |offset: u64| -> Result<BufReader<File>> {
            use std::io::{Seek, SeekFrom};
            let mut file = File::open(path).map_err(Error::io("open", path))?;
            file.seek(SeekFrom::Start(offset)).map_err(Error::io("read", path))?;
            Ok(BufReader::with_capacity(BUFFER, file))
        };
        let mut lengths = open(HEADER_BYTES)?;
        let mut boundaries = open(HEADER_BYTES + 12 * self.sequences)?;
        let mut four = [0; 4];
        let mut eight = [0; 8];
        let mut at = 0;
        for row in 0..self.boundaries {
            boundaries.read_exact(&mut eight).map_err(Error::io("read", path))?;
            let boundary = u64::from_le_bytes(eight);
            if boundary < at || boundary > self.sequences || (row == 0 && boundary != 0) {
                return Err(damaged(path, format!("its document boundary {row} is out of order")));
            }
            let mut tokens = 0;
            while at < boundary {
                lengths.read_exact(&mut four).map_err(Error::io("read", path))?;
                tokens += u64::from(u32::from_le_bytes(four));
                at += 1;
            }
            if row > 0 && tokens != row_tokens {
                return Err(damaged(path, format!("its row {} has {tokens} tokens, not {row_tokens}", row - 1)));
            }
        }
        if at != self.sequences {
            return Err(damaged(path, "its last document ends before its last sequence".into()));
        }
        Ok(())
    }
}

fn damaged(path: &Path, problem: String) -> Error {
    Error::Data {
        place: path.display().to_string(),
        problem,
        cure: "the corpus is damaged or was packed by another program: make it again".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn write(prefix: &Path, token_type: TokenType, rows: &[Vec<Vec<u32>>]) {
        let mut writer = ShardWriter::create(prefix, token_type).unwrap();
        for row in rows {
            for fragment in row {
                let mut stored = Vec::new();
                token_type.store(fragment, &mut stored);
                writer.fragment(&stored).unwrap();
            }
            writer.end_document();
        }
        writer.finish().unwrap();
    }

    #[test]
    fn the_layout_is_megatrons_byte_for_byte() {
        let directory = tempfile::tempdir().unwrap();
        let prefix = directory.path().join("train");
        write(&prefix, TokenType::U16, &[vec![vec![1, 2], vec![0x1234]], vec![vec![5, 6, 7]]]);
        let bin = std::fs::read(directory.path().join("train.bin")).unwrap();
        assert_eq!(bin, [1, 0, 2, 0, 0x34, 0x12, 5, 0, 6, 0, 7, 0]);
        let mut expected = b"MMIDIDX\0\0".to_vec();
        expected.extend(1_u64.to_le_bytes());
        expected.push(8);
        expected.extend(3_u64.to_le_bytes());
        expected.extend(3_u64.to_le_bytes());
        expected.extend([2_i32, 1, 3].iter().flat_map(|length| length.to_le_bytes()));
        expected.extend([0_i64, 4, 6].iter().flat_map(|offset| offset.to_le_bytes()));
        expected.extend([0_i64, 2, 3].iter().flat_map(|boundary| boundary.to_le_bytes()));
        assert_eq!(std::fs::read(directory.path().join("train.idx")).unwrap(), expected);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn rows_come_back(rows in proptest::collection::vec(proptest::collection::vec(0_u32..60_000, 6), 0..6), cut in 1_usize..6, wide: bool) {
            let directory = tempfile::tempdir().unwrap();
            let prefix = directory.path().join("t");
            let token_type = if wide { TokenType::I32 } else { TokenType::U16 };
            let cut_rows: Vec<_> = rows.iter().map(|row| row.chunks(cut).map(<[u32]>::to_vec).collect()).collect();
            write(&prefix, token_type, &cut_rows);
            let opened = Rows::open(&prefix).unwrap();
            prop_assert_eq!(opened.len(), rows.len());
            for (index, row) in rows.iter().enumerate() {
                let mut tokens = vec![0; 6];
                opened.read(index, &mut tokens).unwrap();
                prop_assert_eq!(&tokens, row);
            }
        }
    }

    #[test]
    fn damage_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let prefix = directory.path().join("t");
        let (bin, idx) = (directory.path().join("t.bin"), directory.path().join("t.idx"));
        let rows = [vec![vec![1, 2], vec![3]], vec![vec![4, 5, 6]]];
        let damage = |path: &Path, change: &dyn Fn(&mut Vec<u8>)| {
            write(&prefix, TokenType::U16, &rows);
            let mut bytes = std::fs::read(path).unwrap();
            change(&mut bytes);
            std::fs::write(path, bytes).unwrap();
            Rows::open(&prefix).unwrap_err().to_string()
        };
        for (path, change, expected) in [
            (&bin, (&|bytes: &mut Vec<u8>| bytes.truncate(10)) as &dyn Fn(&mut Vec<u8>), "t.bin"),
            (&idx, &|bytes| bytes[0] = b'X', "Megatron index"),
            (&idx, &|bytes| bytes[17] = 7, "type code 7"),
            (&idx, &|bytes| bytes.truncate(60), "announces"),
            (&idx, &|bytes| bytes[18..26].fill(0xFF), "announces"),
            (&idx, &|bytes| bytes[HEADER_BYTES as usize] = 1, "row 0"),
            (&idx, &|bytes| *bytes.iter_mut().rev().nth(7).unwrap() = 9, "boundary 2"),
        ] {
            let message = damage(path, change);
            assert!(message.contains(expected), "{message}");
        }
    }
}
