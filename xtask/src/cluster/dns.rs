//! One question to a name server, to know that it answers.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

const TYPE_A: u16 = 1;
const CLASS_INTERNET: u16 = 1;
/// Patience for one answer; the caller asks again.
const PATIENCE: Duration = Duration::from_millis(300);

/// Whether the server at `address` knows an IPv4 address of `name`.
pub fn answers(address: Ipv4Addr, name: &str) -> bool {
    ask(address, name).is_ok_and(|answer| has_address(&answer))
}

fn ask(address: Ipv4Addr, name: &str) -> std::io::Result<Vec<u8>> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect((address, 53))?;
    socket.send(&question(name))?;
    let mut answer = vec![0; 512];
    let length = socket.recv(&mut answer)?;
    answer.truncate(length);
    Ok(answer)
}

/// A query as RFC 1035 has it: a header, the name as labels with their lengths, type and class.
fn question(name: &str) -> Vec<u8> {
    const ID: u16 = 0xFA70;
    const RECURSION_DESIRED: u16 = 0x0100;
    let mut message = Vec::new();
    for word in [ID, RECURSION_DESIRED, 1, 0, 0, 0] {
        message.extend(word.to_be_bytes());
    }
    for label in name.split('.') {
        // Labels have at most 63 bytes.
        message.push(label.len() as u8);
        message.extend(label.bytes());
    }
    message.push(0);
    for word in [TYPE_A, CLASS_INTERNET] {
        message.extend(word.to_be_bytes());
    }
    message
}

/// A reply without an error and with at least one record.
fn has_address(answer: &[u8]) -> bool {
    let Some(header) = answer.first_chunk::<12>() else {
        return false;
    };
    let (reply, code) = (header[2] & 0x80 != 0, header[3] & 0x0F);
    let answers = u16::from_be_bytes([header[6], header[7]]);
    reply && code == 0 && answers > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_has_the_labels_of_the_name() {
        let message = question("a.example");
        assert_eq!(message[4..6], [0, 1], "one question");
        assert_eq!(&message[12..], b"\x01a\x07example\x00\x00\x01\x00\x01");
    }

    #[test]
    fn only_an_answer_without_error_counts() {
        let header = |flags: [u8; 2], answers: u8| [0, 0, flags[0], flags[1], 0, 1, 0, answers, 0, 0, 0, 0];
        assert!(has_address(&header([0x84, 0], 1)));
        assert!(!has_address(&header([0x84, 0], 0)), "no records");
        assert!(!has_address(&header([0x84, 3], 1)), "no such name");
        assert!(!has_address(&header([0x04, 0], 1)), "a question");
        assert!(!has_address(&[0; 5]), "cut off");
    }
}
