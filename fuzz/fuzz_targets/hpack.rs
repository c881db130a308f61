//! A block has at most as many fields as bytes, and the table stays within its limit. The decoder agrees with another
//! implementation's decoder, and reads what that one's encoder writes.
#![no_main]

use httlib_hpack::Encoder;
use http2::hpack::{Decoder, HpackError};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((limit, rest)) = data.split_first() else { return };
    let limit = usize::from(*limit) << 5;
    let (mut ours, mut theirs) = (Decoder::new(limit), their_decoder(limit));
    let (mut read, mut sound) = (Vec::new(), Vec::new());
    for block in blocks(rest) {
        let (fields, Ok(())) = decode(&mut ours, block, limit) else { break };
        assert_eq!(fields, decoded(&mut theirs, block));
        read.extend(fields);
        sound.push(block);
    }
    assert_eq!(read, joined(&sound, limit), "where blocks end does not matter");
    again(&read, rest, limit);
});

type Field = (Vec<u8>, Vec<u8>);

/// Splits the input into blocks. Each has its length before it.
fn blocks(data: &[u8]) -> Vec<&[u8]> {
    let (mut rest, mut blocks) = (data, Vec::new());
    while let Some((len, after)) = rest.split_first_chunk() {
        let (block, after) = after.split_at(usize::from(u16::from_be_bytes(*len)).min(after.len()));
        blocks.push(block);
        rest = after;
    }
    blocks
}

fn decode(decoder: &mut Decoder, block: &[u8], limit: usize) -> (Vec<Field>, Result<(), HpackError>) {
    let mut fields = Vec::new();
    let outcome = decoder.decode(block, |name, value| fields.push((name.to_vec(), value.to_vec())));
    assert!(fields.len() <= block.len());
    assert!(decoder.table_len() <= limit);
    (fields, outcome)
}

/// The fields if all blocks are joined into one, except where the table's size changes.
fn joined(blocks: &[&[u8]], limit: usize) -> Vec<Field> {
    let mut joined: Vec<Vec<u8>> = Vec::new();
    for block in blocks {
        match joined.last_mut() {
            Some(before) if !block.first().is_some_and(|first| (0x20..0x40).contains(first)) => {
                before.extend_from_slice(block);
            }
            _ => joined.push(block.to_vec()),
        }
    }
    let mut decoder = Decoder::new(limit);
    joined.iter().flat_map(|block| decode(&mut decoder, block, limit).0).collect()
}

fn their_decoder(limit: usize) -> httlib_hpack::Decoder<'static> {
    let mut decoder = httlib_hpack::Decoder::with_dynamic_size(limit.min(INITIAL_SIZE) as u32);
    decoder.set_max_dynamic_size(limit as u32);
    decoder
}

fn decoded(decoder: &mut httlib_hpack::Decoder<'_>, block: &[u8]) -> Vec<Field> {
    let mut fields = Vec::new();
    decoder.decode(&mut block.to_vec(), &mut fields).expect("we could read it");
    fields.into_iter().map(|(name, value, _)| (name, value)).collect()
}

/// Encodes the fields again, one block each, in the representations that `flags` chooses, and decodes them.
fn again(fields: &[Field], flags: &[u8], limit: usize) {
    let mut encoder = Encoder::with_dynamic_size(limit.min(INITIAL_SIZE) as u32);
    let mut decoder = Decoder::new(limit);
    for ((name, value), flags) in fields.iter().zip(flags.iter().cycle()) {
        let mut block = Vec::new();
        if flags & RESIZE == RESIZE {
            let size = (limit >> (flags & 3)) as u32;
            encoder.update_max_dynamic_size(size, &mut block).expect("it may be smaller");
        }
        encoder.encode((name.clone(), value.clone(), flags & FORMATS), &mut block).expect("any bytes");
        let (read, outcome) = decode(&mut decoder, &block, limit);
        assert_eq!((read, outcome), (vec![(name.clone(), value.clone())], Ok(())));
    }
}

const FORMATS: u8 = Encoder::HUFFMAN_NAME
    | Encoder::HUFFMAN_VALUE
    | Encoder::WITH_INDEXING
    | Encoder::NEVER_INDEXED
    | Encoder::BEST_FORMAT;
const RESIZE: u8 = 0xe0;
const INITIAL_SIZE: usize = 4096;
