//! Ids of messages: `<newest event>.<epoch>.<sequence>`. Within one process's life (`epoch`) the sequence says exactly what was missed;
//! after a restart, or at another replica, the event id says which events were.

/// A place in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offset {
    /// Id of the newest event before this place.
    pub(super) event: i64,
    /// Which process counted the sequence.
    pub(super) epoch: u32,
    /// Messages of the topic before this place.
    pub(super) sequence: u64,
}

impl Offset {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().split('.');
        let offset = Self {
            event: parts.next()?.parse().ok().filter(|&event| event >= 0)?,
            epoch: u32::from_str_radix(parts.next()?, 16).ok()?,
            sequence: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(offset)
    }
}

impl std::fmt::Display for Offset {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { event, epoch, sequence } = self;
        write!(formatter, "{event}.{epoch:08x}.{sequence}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_read_back() {
        let offset = Offset {
            event: 71,
            epoch: 0xfe,
            sequence: 9,
        };
        assert_eq!(offset.to_string(), "71.000000fe.9");
        assert_eq!(Offset::parse("71.000000fe.9"), Some(offset));
        for wrong in ["", "7", "7.1", "7.1.2.3", "-7.1.2", "a.b.c"] {
            assert_eq!(Offset::parse(wrong), None, "{wrong}");
        }
    }
}
