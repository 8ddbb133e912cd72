//! Byte equality with torch; `tests/golden/README.md` says how the values were made.

use crate::Backend;
use fathom_kernels::formats::{Grouping, QuantizeDims, Scaling, Source, e4m3};

/// The tensors of a SafeTensors file: a length, a JSON header, the data.
struct File {
    header: String,
    data: Vec<u8>,
}

impl File {
    fn open() -> Self {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/fp8.safetensors");
        let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let (len, rest) = bytes.split_first_chunk().unwrap();
        let (header, data) = rest.split_at(u64::from_le_bytes(*len) as usize);
        Self {
            header: String::from_utf8(header.to_vec()).unwrap(),
            data: data.to_vec(),
        }
    }

    /// Bytes and shape of a tensor.
    fn tensor(&self, name: &str) -> (&[u8], Vec<usize>) {
        let start = self
            .header
            .find(&format!("\"{name}\":"))
            .unwrap_or_else(|| panic!("no tensor {name}"));
        let list = |key: &str| -> Vec<usize> {
            let entry = &self.header[start..][self.header[start..].find(key).unwrap() + key.len()..];
            let numbers = &entry[entry.find('[').unwrap() + 1..entry.find(']').unwrap()];
            numbers.split(',').map(|number| number.trim().parse().unwrap()).collect()
        };
        let offsets = list("\"data_offsets\"");
        (&self.data[offsets[0]..offsets[1]], list("\"shape\""))
    }

    fn bits(&self, name: &str) -> Vec<u32> {
        let (bytes, _) = self.tensor(name);
        bytes.as_chunks().0.iter().map(|four| u32::from_le_bytes(*four)).collect()
    }
}

#[test]
fn every_code_decodes_to_the_bits_of_torch() {
    let expected = File::open().bits("e4m3.decode");
    let actual: Vec<u32> = (0..=255).map(|code| e4m3::decode(code).to_bits()).collect();
    assert_eq!(actual, expected);
}

#[test]
fn casts_equal_those_of_torch() {
    let file = File::open();
    let (expected, shape) = file.tensor("e4m3.cast_out");
    let input = crate::floats(&file.bits("e4m3.cast_in"));
    assert_eq!((input.len(), shape[0]), (10_241, 10_241));
    for (value, &code) in input.into_iter().zip(expected) {
        assert_eq!(e4m3::encode(value), code, "{value}");
    }
}

#[test]
fn codes_and_scales_equal_those_of_torch() {
    let file = File::open();
    let (_, shape) = file.tensor("x");
    let (rows, columns) = (shape[0], shape[1]);
    assert_eq!((rows, columns), (130, 300));
    let x = crate::floats(&file.bits("x"));
    for backend in Backend::all() {
        for (name, grouping, scaling) in [
            ("tile_1x128", Grouping::Row, Scaling::Plain),
            ("tile_1x128_pow2", Grouping::Row, Scaling::PowerOfTwo),
            ("tile_128x1_pow2", Grouping::Column, Scaling::PowerOfTwo),
            ("block_128x128", Grouping::Block, Scaling::Plain),
            ("block_128x128_pow2", Grouping::Block, Scaling::PowerOfTwo),
        ] {
            let dims = QuantizeDims {
                rows,
                columns,
                grouping,
                scaling,
                transposed: false,
            };
            let place = format!("{name}, {}", backend.name());
            let (codes, scales, statistics) = backend.quantize(Source::F32(&x), dims);
            let (expected, _) = file.tensor(&format!("{name}.codes"));
            assert!(codes == expected, "codes of {place}");
            let (_, shape) = file.tensor(&format!("{name}.scales"));
            assert_eq!((shape[0], shape[1]), dims.scales(), "{place}");
            assert_eq!(scales, file.bits(&format!("{name}.scales")), "scales of {place}");
            assert_eq!((statistics.elements, statistics.non_finite), (39_000, 0), "{place}");
        }
    }
}
