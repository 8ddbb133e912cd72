//! One record, one line: `crc32 SP json LF`.

use fathom_spec::record::Record;

/// Limit of a line's length in bytes. A record with the expert load of 61 layers x 256 experts has 90 KB.
pub const MAX_FRAME_BYTES: usize = 16 << 20;

/// Bytes before the JSON: 8 digits and a space.
const PREFIX: usize = 9;

/// Appends a record's line to `out`.
///
/// # Errors
/// If the record has no JSON form; `out` is unchanged then.
pub(super) fn encode(record: &Record, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
    let start = out.len();
    out.extend_from_slice(b"00000000 ");
    if let Err(error) = serde_json::to_writer(&mut *out, record) {
        out.truncate(start);
        return Err(error);
    }
    let crc = crc32fast::hash(&out[start + PREFIX..]);
    out[start..start + PREFIX - 1].copy_from_slice(format!("{crc:08x}").as_bytes());
    out.push(b'\n');
    Ok(())
}

/// The JSON of a line (without its line feed), once the CRC is right.
pub(super) fn payload(line: &[u8]) -> Result<&[u8], String> {
    let (prefix, json) = line.split_at_checked(PREFIX).ok_or("the line is too short for a record")?;
    let crc = format!("{:08x} ", crc32fast::hash(json));
    if prefix == crc.as_bytes() {
        Ok(json)
    } else {
        Err("the CRC is wrong: the record was altered after it was written".into())
    }
}

/// The record of a line (without its line feed).
pub(super) fn decode(line: &[u8]) -> Result<Record, String> {
    serde_json::from_slice(payload(line)?).map_err(|error| format!("the record has an unknown form: {error}"))
}
