//! The decoder against two oracles: the examples of RFC 7541, Appendix C, and blocks from the Python package `hpack`.

use super::huffman::CODE;
use super::*;

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<_> = hex.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits.chunks(2).map(|byte| u8::try_from(byte[0] << 4 | byte[1]).unwrap()).collect()
}

type Fields = Vec<(String, String)>;

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Fields, HpackError> {
    let mut fields = Fields::new();
    let text = |part: &[u8]| String::from_utf8(part.to_vec()).unwrap();
    decoder.decode(block, |name, value| fields.push((text(name), text(value)))).map(|()| fields)
}

fn decode_hex(decoder: &mut Decoder, hex: &str) -> Fields {
    decode(decoder, &bytes(hex)).unwrap()
}

/// The error of a fresh decoder.
fn error(hex: &str) -> HpackError {
    decode(&mut Decoder::new(4096), &bytes(hex)).unwrap_err()
}

fn fields<const N: usize>(expected: [(&str, &str); N]) -> Fields {
    expected.map(|(name, value)| (name.into(), value.into())).into()
}

fn table(decoder: &mut Decoder) -> Fields {
    let mut entries = Fields::new();
    while let Ok(entry) = decode(decoder, &[0x80 | u8::try_from(62 + entries.len()).unwrap()]) {
        entries.extend(entry);
    }
    entries
}

/// A literal with incremental indexing, whose texts are short and not in Huffman code.
fn indexed(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    [vec![0x40], text(name), text(value)].concat()
}

/// `text` in the Huffman code of Appendix B.
fn huffman(text: &[u8]) -> Vec<u8> {
    let (mut coded, mut bits, mut count) = (Vec::new(), 0_u64, 0);
    for byte in text {
        let (code, length) = CODE.code(*byte);
        (bits, count) = (bits << length | u64::from(code), count + length);
        while count >= 8 {
            count -= 8;
            coded.push((bits >> count & 0xff) as u8);
        }
    }
    if count > 0 {
        coded.push((bits << (8 - count) & 0xff) as u8 | 0xff >> count);
    }
    coded
}

fn unhuffman(coded: &[u8]) -> Result<Vec<u8>, HpackError> {
    let mut text = Vec::new();
    huffman::decode(coded, &mut text).map(|()| text)
}

const EXAMPLE: (&str, &str) = (":authority", "www.example.com");
const CUSTOM: (&str, &str) = ("custom-key", "custom-value");

#[test]
fn rfc_c_2_representations() {
    let mut decoder = Decoder::new(4096);
    let block = "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572";
    assert_eq!(decode_hex(&mut decoder, block), fields([("custom-key", "custom-header")]));
    assert_eq!(table(&mut decoder), fields([("custom-key", "custom-header")]));
    assert_eq!(decoder.table_len(), 55);

    let mut decoder = Decoder::new(4096);
    let block = "040c 2f73 616d 706c 652f 7061 7468";
    assert_eq!(decode_hex(&mut decoder, block), fields([(":path", "/sample/path")]));
    let block = "1008 7061 7373 776f 7264 0673 6563 7265 74";
    assert_eq!(decode_hex(&mut decoder, block), fields([("password", "secret")]));
    assert_eq!(decode_hex(&mut decoder, "82"), fields([(":method", "GET")]));
    assert_eq!((table(&mut decoder), decoder.table_len()), (fields([]), 0));
}

#[test]
fn rfc_c_3_requests() {
    assert_requests([
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 84be 5808 6e6f 2d63 6163 6865",
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
    ]);
}

#[test]
fn rfc_c_4_requests_in_huffman_code() {
    assert_requests([
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ]);
}

fn assert_requests([first, second, third]: [&str; 3]) {
    let mut decoder = Decoder::new(4096);
    let get = [(":method", "GET"), (":scheme", "http"), (":path", "/"), EXAMPLE];
    assert_eq!(decode_hex(&mut decoder, first), fields(get));
    assert_eq!((table(&mut decoder), decoder.table_len()), (fields([EXAMPLE]), 57));

    let uncached = ("cache-control", "no-cache");
    let [method, scheme, path, authority] = get;
    assert_eq!(decode_hex(&mut decoder, second), fields([method, scheme, path, authority, uncached]));
    assert_eq!((table(&mut decoder), decoder.table_len()), (fields([uncached, EXAMPLE]), 110));

    let custom = [method, (":scheme", "https"), (":path", "/index.html"), authority, CUSTOM];
    assert_eq!(decode_hex(&mut decoder, third), fields(custom));
    assert_eq!((table(&mut decoder), decoder.table_len()), (fields([CUSTOM, uncached, EXAMPLE]), 164));
}

#[test]
fn rfc_c_5_responses_with_eviction() {
    assert_responses([
        "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32
         3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "4803 3330 37c1 c0bf",
        "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970
         7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61
         6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31",
    ]);
}

#[test]
fn rfc_c_6_responses_in_huffman_code_with_eviction() {
    assert_responses([
        "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad
         1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
        "4883 640e ffc1 c0bf",
        "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2
         e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
    ]);
}

fn assert_responses([first, second, third]: [&str; 3]) {
    let mut decoder = Decoder::new(256);
    let (found, private) = ((":status", "302"), ("cache-control", "private"));
    let date = ("date", "Mon, 21 Oct 2013 20:13:21 GMT");
    let location = ("location", "https://www.example.com");
    assert_eq!(decode_hex(&mut decoder, first), fields([found, private, date, location]));
    assert_eq!(table(&mut decoder), fields([location, date, private, found]));
    assert_eq!(decoder.table_len(), 222);

    let elsewhere = (":status", "307");
    assert_eq!(decode_hex(&mut decoder, second), fields([elsewhere, private, date, location]));
    assert_eq!(table(&mut decoder), fields([elsewhere, location, date, private]));
    assert_eq!(decoder.table_len(), 222);

    let later = ("date", "Mon, 21 Oct 2013 20:13:22 GMT");
    let gzip = ("content-encoding", "gzip");
    let cookie = ("set-cookie", "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1");
    let all = [(":status", "200"), private, later, location, gzip, cookie];
    assert_eq!(decode_hex(&mut decoder, third), fields(all));
    assert_eq!(table(&mut decoder), fields([cookie, gzip, later]));
    assert_eq!(decoder.table_len(), 215);
}

#[test]
fn what_envoy_1_40_sends() {
    let request = [
        (":method", "POST"),
        (":path", "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets"),
        (":authority", "agent"),
        (":scheme", "http"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("x-envoy-internal", "true"),
        ("x-forwarded-for", "192.0.2.2"),
    ];
    let mut decoder = Decoder::new(4096);
    let path =
        "8304 ac60 b577 3fa5 d05b 3b98 855d 0525 854a fdd9 5f71 4961 537c c821 fb96 cf5b 8b67 7310 ac6e 4d85
        1d3b 8a4b 0a94 7f";
    let rest =
        "4184 1cc5 a93f 8640 0274 6586 4d83 3505 b11f 5f8b 1d75 d062 0d26 3d4c 4d65 6440 8cf2 b16a ee7f 4b1a
        a496 ca87 4783 4d96 9740 8bf2 b4a7 b3c0 ec90 b22d 29ec 870b e25c 0b89 717f";
    assert_eq!(decode_hex(&mut decoder, &[path, rest].concat()), fields(request));
    assert_eq!(decoder.table_len(), 257);
    assert_eq!(decode_hex(&mut decoder, &[path, "c286 c1c0 bfbe"].concat()), fields(request));
}

#[test]
fn what_grpc_go_1_79_sends() {
    let request = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/SpiffeWorkloadAPI/FetchX509SVID"),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("user-agent", "grpc-go/1.79.3"),
        ("te", "trailers"),
        ("workload.spiffe.io", "true"),
    ];
    let mut decoder = Decoder::new(4096);
    let block = "8386 4599 6375 6696 52f2 3d9d 6838 e487 5e46 3095 249f f1b0 3fbb 8e4b ff41 86a0 e41d 139d 095f 8b1d
        75d0 620d 263d 4c4d 6564 7a8b 9aca c8b4 c760 2bba faec ff40 0274 6586 4d83 3505 b11f 408d f07b 3ad0 71c8
        ba2b 34b2 9573 1f83 4d96 97";
    assert_eq!(decode_hex(&mut decoder, block), fields(request));
    assert_eq!(decoder.table_len(), 332);
    assert_eq!(decode_hex(&mut decoder, "8386 c3c2 c1c0 bfbe"), fields(request));
}

#[test]
fn the_static_table_has_its_ends() {
    let mut decoder = Decoder::new(4096);
    assert_eq!(decode(&mut decoder, &[0x81]), Ok(fields([(":authority", "")])));
    assert_eq!(decode(&mut decoder, &[0x80 | 61]), Ok(fields([("www-authenticate", "")])));
    assert_eq!(decode(&mut decoder, &[0x80 | 62]), Err(HpackError::IndexBeyondTables));
}

#[test]
fn nothing_is_a_block() {
    assert_eq!(decode(&mut Decoder::new(4096), &[]), Ok(fields([])));
}

#[test]
fn a_block_that_ends_within_a_field() {
    let value_plain = bytes("400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572");
    let both_coded = bytes("4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf");
    for block in [value_plain, both_coded] {
        for cut in 1..block.len() {
            assert_eq!(decode(&mut Decoder::new(4096), &block[..cut]), Err(HpackError::Truncated));
        }
    }
    for cut in ["ff", "ff80", "3f", "3fe1", "41", "7f80", "0f", "1f80"] {
        assert_eq!(error(cut), HpackError::Truncated, "{cut}");
    }
}

#[test]
fn an_integer_that_is_too_large() {
    // An index, a name's index, a table size and the lengths of both texts; the last but one is a 0 in many bytes.
    let too_large =
        ["ffff ffff ff0f", "7fff ffff ffff 01", "3fff ffff ff7f", "407f 8080 8080 00", "417f ffff ffff 0f"];
    for block in too_large {
        assert_eq!(error(block), HpackError::IntegerOverflow, "{block}");
    }
    // The largest integer that is read.
    assert_eq!(error("ffff ffff 7f"), HpackError::IndexBeyondTables);
    assert_eq!(error("417f ffff ff7f 61"), HpackError::Truncated);
}

#[test]
fn an_index_of_nothing() {
    assert_eq!(error("80"), HpackError::IndexZero);
    for block in ["be", "ff00", "7e00", "0f2f 00", "1f2f 00"] {
        assert_eq!(error(block), HpackError::IndexBeyondTables, "{block}");
    }
}

#[test]
fn fields_before_an_error_are_seen() {
    let mut seen = 0;
    let outcome = Decoder::new(4096).decode(&[0x82, 0x86, 0x80], |_, _| seen += 1);
    assert_eq!((outcome, seen), (Err(HpackError::IndexZero), 2));
}

#[test]
fn the_tables_size_changes_at_the_start_of_a_block() {
    let (first, second) = (indexed("a", "1"), indexed("b", "2"));
    let mut decoder = Decoder::new(4096);
    decode(&mut decoder, &[first, second].concat()).unwrap();
    assert_eq!((table(&mut decoder), decoder.table_len()), (fields([("b", "2"), ("a", "1")]), 68));
    // In 67 bytes there is room for one of the two entries; in 33, for none.
    assert_eq!(decode_hex(&mut decoder, "3f24 be"), fields([("b", "2")]));
    assert_eq!((table(&mut decoder), decoder.table_len()), (fields([("b", "2")]), 34));
    assert_eq!(decode_hex(&mut decoder, "3f02 82"), fields([(":method", "GET")]));
    assert_eq!((table(&mut decoder), decoder.table_len()), (fields([]), 0));
    // Two updates in one block: the table is emptied, then as large as it may be (§4.2).
    assert_eq!(decode_hex(&mut decoder, "20 3fe1 1f"), fields([]));
    decode(&mut decoder, &indexed("a", "1")).unwrap();
    assert_eq!(decode_hex(&mut decoder, "20 3fe1 1f 82"), fields([(":method", "GET")]));
    assert_eq!(table(&mut decoder), fields([]));
}

#[test]
fn a_size_above_the_limit() {
    assert_eq!(error("3fe2 1f"), HpackError::SizeUpdateAboveLimit);
    assert_eq!(error("20 3fe2 1f"), HpackError::SizeUpdateAboveLimit);
    assert_eq!(decode(&mut Decoder::new(0), &bytes("21")), Err(HpackError::SizeUpdateAboveLimit));
    assert_eq!(decode(&mut Decoder::new(0), &bytes("20")), Ok(fields([])));
}

#[test]
fn a_size_after_a_field() {
    assert_eq!(error("8220"), HpackError::LateSizeUpdate);
    assert_eq!(error("20 4001 6101 31 20"), HpackError::LateSizeUpdate);
}

#[test]
fn more_than_the_initial_size_has_to_be_asked_for() {
    let mut decoder = Decoder::new(8192);
    let entries = indexed("name", &"v".repeat(100)).repeat(60);
    decode(&mut decoder, &entries).unwrap();
    assert_eq!(decoder.table_len(), 30 * 136);
    decode(&mut decoder, &[bytes("3fe1 3f"), entries].concat()).unwrap();
    assert_eq!(decoder.table_len(), 60 * 136);
}

#[test]
fn an_entry_larger_than_the_table_empties_it() {
    let mut decoder = Decoder::new(64);
    decode(&mut decoder, &indexed("a", "1")).unwrap();
    let (fits, larger) = ("v".repeat(31), "v".repeat(32));
    assert_eq!(decode(&mut decoder, &indexed("a", &larger)), Ok(fields([("a", &larger)])));
    assert_eq!((table(&mut decoder), decoder.table_len()), (fields([]), 0));
    assert_eq!(decode(&mut decoder, &indexed("a", &fits)), Ok(fields([("a", &fits)])));
    assert_eq!((table(&mut decoder), decoder.table_len()), (fields([("a", &fits)]), 64));
}

#[test]
fn without_a_table_nothing_is_kept() {
    let mut decoder = Decoder::new(0);
    assert_eq!(decode(&mut decoder, &indexed("", "")), Ok(fields([("", "")])));
    assert_eq!((table(&mut decoder), decoder.table_len()), (fields([]), 0));
}

#[test]
fn a_name_of_an_entry_that_its_insertion_evicts() {
    let mut decoder = Decoder::new(64);
    decode(&mut decoder, &indexed("custom-key", "1")).unwrap();
    assert_eq!(decode_hex(&mut decoder, "7e01 32"), fields([("custom-key", "2")]));
    assert_eq!((table(&mut decoder), decoder.table_len()), (fields([("custom-key", "2")]), 43));
    // The new entry does not fit either.
    let larger = "v".repeat(60);
    let block = [&[0x7e, 60], larger.as_bytes()].concat();
    assert_eq!(decode(&mut decoder, &block), Ok(fields([("custom-key", &larger)])));
    assert_eq!(table(&mut decoder), fields([]));
}

#[test]
fn a_name_of_an_entry_for_fields_that_are_not_kept() {
    let mut decoder = Decoder::new(4096);
    decode(&mut decoder, &indexed("custom-key", "1")).unwrap();
    assert_eq!(decode_hex(&mut decoder, "0f2f 0132"), fields([("custom-key", "2")]));
    assert_eq!(decode_hex(&mut decoder, "1f2f 8117"), fields([("custom-key", "2")]));
    assert_eq!(table(&mut decoder), fields([("custom-key", "1")]));
}

#[test]
fn huffman_code_is_that_of_the_python_package_hpack() {
    // All bytes from 0 to 255.
    let all =
        "ffc7fffd8fffffe2fffffe3fffffe4fffffe5fffffe6fffffe7fffffe8ffffeafffffff3fffffa7fffffabffffffdfff
        ffebfffffecfffffedfffffeefffffefffffff0ffffff1ffffff2fffffffbfffffcffffffd3fffffd7fffffdbfffffdf
        fffffe3fffffe7fffffebfffffed4fe3f9ffaffcabf1febfafefe7fdfd2cbb00089969b71d79fb9f7fff20ffbff3ff50
        ddbd7f061c58f265cd9f469d5af66dddbf871e5f9cff7ff7fffc3ff9ffe45fff4719242cb34e6e9d68a6a3d7dac426de
        fe3cfaf7fffbfe7ffbffdffffffcfffe6ffff4bfff9ffffa3fffd3ffff53fffd5ffffb3fffeb7fffdaffffb7ffff73ff
        feeffffdeffffebffffbfffffd9ffffdbfffebffffe0ffffeeffffc3ffff8bffff1ffffe4fffee7fffb1ffff97fffd9f
        fffcdffff9fffffbffffdafffeeffff4ffffb7fffee7fffe8ffffd3fffdeffffd5fffeeffffbdffffe1fffdfffff7fff
        ff5ffffecffff07fff87fffe0ffff17fffedffff87ffff77fffeffffeaffff8bfffe3ffff93ffff87fffcbffff37ffff
        1fffff83ffffe1fffebfffe3ffff3fffff2ffffa3ffffd9fffff17ffffc7fffff27ffffdefffffbffffff2fffff8ffff
        fb7fff97fff8fffffe6fffffc1fffff87ffffe7fffffc5ffffe5fffe4ffff2fffffd1fffff4ffffffefffffe3fffffc9
        fffff97fffb3ffffcffffb7fffcdffff4ffff9ffffd1ffffcffffeaffffafffffddffffeffffff4fffff5fffffabffff
        a7ffffd7fffff9bffffecfffffb7fffff3fffffe8fffffd3fffffabfffff5fffffff7ffffecfffffdbfffffbbfffff7f
        fffff0fffffbbf";
    let every_byte: Vec<_> = (0..=255).collect();
    for (coded, text) in [
        (all, &*every_byte),
        (
            "60b5773fa5d05b3b98855d0525854afdd95f714961537cc821fb96cf5b8b677310ac6e4d851d3b8a4b0a947f",
            b"/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets",
        ),
        ("1d75d0620d263d4c4d6564", b"application/grpc"),
        ("18c631ff", b"aaaaa"),
        ("45669652dc6182f91d35d055cf64cc7fff1ffffe1f", "spiffe://example.org/ü".as_bytes()),
        ("", b""),
    ] {
        assert_eq!(unhuffman(&bytes(coded)).as_deref(), Ok(text));
        assert_eq!(huffman(text), bytes(coded));
    }
}

#[test]
fn every_byte_comes_back_from_huffman_code_wherever_it_begins() {
    for byte in 0..=255 {
        for before in 0..40 {
            let text = [&*b"a".repeat(before), &[byte], b"0z"].concat();
            assert_eq!(unhuffman(&huffman(&text)), Ok(text));
        }
    }
}

#[test]
fn huffman_code_ends_in_less_than_a_byte_of_eos() {
    for length in 0..40 {
        let text = b"a".repeat(length);
        let coded = huffman(&text);
        assert_eq!(unhuffman(&coded), Ok(text));
        let padded = [&*coded, &[0xff]].concat();
        assert_eq!(unhuffman(&padded), Err(HpackError::HuffmanPaddingTooLong), "{length}");
        let padding = 8 - length * 5 % 8;
        for bit in 0..padding % 8 {
            let mut flipped = coded.clone();
            *flipped.last_mut().unwrap() ^= 1 << bit;
            // Unless the flipped bits make another symbol.
            let outcome = unhuffman(&flipped);
            let other_symbol = padding >= 5 && outcome.as_ref().is_ok_and(|text| text.len() == length + 1);
            assert!(other_symbol || outcome == Err(HpackError::HuffmanPaddingNotEos), "{length}, {bit}");
        }
    }
    for (coded, reason) in [
        ("4181 18", HpackError::HuffmanPaddingNotEos),
        ("4182 1fff", HpackError::HuffmanPaddingTooLong),
        ("4081 ff00", HpackError::HuffmanPaddingTooLong),
        // Half of a code that is longer than a byte.
        ("4181 fe", HpackError::HuffmanPaddingNotEos),
        ("4183 ffff fd", HpackError::HuffmanPaddingNotEos),
        ("4183 ffff ff", HpackError::HuffmanPaddingTooLong),
    ] {
        assert_eq!(error(coded), reason, "{coded}");
    }
}

#[test]
fn huffman_code_has_no_eos() {
    assert_eq!(error("4184 ffff ffff"), HpackError::HuffmanEos);
    assert_eq!(error("4185 1fff ffff ff"), HpackError::HuffmanEos);
    assert_eq!(error("4084 ffff fffc 00"), HpackError::HuffmanEos);
}

#[test]
fn a_decoder_is_small() {
    assert!(size_of::<Decoder>() <= 64, "{}", size_of::<Decoder>());
}

#[test]
fn a_decoder_is_shown_without_its_fields() {
    let mut decoder = Decoder::new(4096);
    decode(&mut decoder, &indexed("password", "secret")).unwrap();
    let shown = format!("{decoder:?}");
    assert_eq!(shown, "Decoder { table: Table { entries: 1, size: 46, capacity: 4096 }, limit: 4096 }");
}

/// Otherwise two bytes of a block could make a copy as large as the table.
#[test]
fn a_name_given_by_index_is_shared_and_not_copied() {
    let mut decoder = Decoder::new(4096);
    let long = [b"\x40\x7f\xa1\x1e".to_vec(), vec![b'n'; 4000], vec![0]].concat();
    let mut names = Vec::new();
    decoder
        .decode(&[long, b"\x7e\x00".repeat(50), vec![0xbe]].concat(), |name, _| names.push(name.to_vec()))
        .unwrap();
    assert!(names.iter().all(|name| *name == [b'n'; 4000]) && names.len() == 52);
    let mut places = Vec::new();
    decoder.decode(&b"\xbe\x7e\x00".repeat(50), |name, _| places.push(name.as_ptr())).unwrap();
    places.dedup();
    assert_eq!(places.len(), 1);
}
