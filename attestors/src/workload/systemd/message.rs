//! Messages of the D-Bus protocol, as far as a client needs that calls three methods with texts and numbers. The bus checks
//! what it passes on, but nothing is trusted here: lengths are limited, and whatever is not understood is an error.

use std::fmt;

/// A method call. All texts are constants, or come from the bus.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) destination: &'a str,
    pub(super) path: &'a str,
    pub(super) interface: &'a str,
    pub(super) member: &'a str,
    pub(super) arguments: Arguments<'a>,
}

/// What a method is called with.
#[derive(Debug, Clone, Copy)]
pub(super) enum Arguments<'a> {
    None,
    Number(u32),
    Texts(&'a str, &'a str),
}

/// A message from the bus that answers a call.
#[derive(Debug, PartialEq, Eq)]
pub struct Reply {
    /// The number of the call.
    pub serial: u32,
    /// The text of the answer: an object path, a text, or a variant with one of these. `None` for an answer of another
    /// kind.
    pub text: Option<String>,
    /// Whether the answer is an error. Its name is the text if it has no message.
    pub is_error: bool,
}

/// The lengths in a message's first [`FIXED`] bytes.
#[derive(Debug, Clone, Copy)]
pub struct Head {
    kind: u8,
    fields: usize,
    body: usize,
}

/// A message that a client must not accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The head is not that of a little-endian message of version 1.
    #[error("not a D-Bus message")]
    Head,
    /// The message is longer than is read.
    #[error("a message of more than {MOST} bytes")]
    TooLong,
    /// The header's fields or the body end too early, or are not what they say.
    #[error("a malformed D-Bus message")]
    Content,
}

impl Call<'_> {
    /// The message. A long text would make a message longer than the bus takes, which it refuses.
    pub(super) fn encode(&self, serial: u32) -> Vec<u8> {
        let mut body = Writer::default();
        let signature = match self.arguments {
            Arguments::None => "",
            Arguments::Number(number) => {
                body.number(number);
                "u"
            }
            Arguments::Texts(one, other) => {
                body.text(one);
                body.text(other);
                "ss"
            }
        };
        let mut fields = Writer::default();
        fields.field(PATH, "o", self.path);
        fields.field(INTERFACE, "s", self.interface);
        fields.field(MEMBER, "s", self.member);
        fields.field(DESTINATION, "s", self.destination);
        if !signature.is_empty() {
            fields.align(8);
            fields.0.push(SIGNATURE);
            fields.signature("g");
            fields.signature(signature);
        }
        let mut message = Writer(vec![LITTLE_ENDIAN, METHOD_CALL, NO_AUTO_START, VERSION]);
        message.number(length(body.0.len()));
        message.number(serial);
        message.number(length(fields.0.len()));
        message.0.append(&mut fields.0);
        message.align(8);
        message.0.append(&mut body.0);
        message.0
    }
}

fn length(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// Writes values with the alignment that each has. Fields and body begin at a multiple of eight.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn number(&mut self, number: u32) {
        self.align(4);
        self.0.extend(number.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(length(text.len()));
        self.0.extend(text.bytes());
        self.0.push(0);
    }

    fn signature(&mut self, signature: &str) {
        self.0.push(u8::try_from(signature.len()).unwrap_or(u8::MAX));
        self.0.extend(signature.bytes());
        self.0.push(0);
    }

    fn field(&mut self, code: u8, signature: &str, value: &str) {
        self.align(8);
        self.0.push(code);
        self.signature(signature);
        self.text(value);
    }
}

impl Head {
    /// Parses the first bytes of a message.
    ///
    /// # Errors
    /// [`Malformed::Head`] or [`Malformed::TooLong`].
    pub fn parse(bytes: [u8; FIXED]) -> Result<Self, Malformed> {
        let [LITTLE_ENDIAN, kind, _flags, VERSION, ..] = bytes else { return Err(Malformed::Head) };
        let mut reader = Reader { bytes: &bytes, at: 4 };
        let body = reader.number()?;
        let _serial = reader.number()?;
        let fields = reader.number()?;
        let size = |length: u32| usize::try_from(length).ok().filter(|length| *length <= MOST);
        match (size(fields), size(body)) {
            (Some(fields), Some(body)) if fields + body <= MOST => Ok(Self { kind, fields, body }),
            _ => Err(Malformed::TooLong),
        }
    }

    /// How many bytes follow.
    #[must_use]
    pub fn rest(&self) -> usize {
        self.fields.next_multiple_of(8) + self.body
    }
}

/// Parses the rest of a message. `None` if it is no answer to a call.
///
/// # Errors
/// [`Malformed::Content`].
pub fn reply(head: Head, rest: &[u8]) -> Result<Option<Reply>, Malformed> {
    let is_error = match head.kind {
        METHOD_RETURN => false,
        ERROR => true,
        _ => return Ok(None),
    };
    let fields = rest.get(..head.fields).ok_or(Malformed::Content)?;
    let body = rest.get(head.fields.next_multiple_of(8)..).ok_or(Malformed::Content)?;
    let (mut serial, mut name, mut signature) = (None, None, "");
    let mut reader = Reader { bytes: fields, at: 0 };
    while reader.at < fields.len() {
        reader.align(8)?;
        let code = reader.byte()?;
        match (code, reader.value()?) {
            (REPLY_SERIAL, Value::Number(number)) => serial = Some(number),
            (ERROR_NAME, Value::Text(text)) => name = Some(text),
            (SIGNATURE, Value::Signature(text)) => signature = text,
            _ => {}
        }
    }
    let serial = serial.ok_or(Malformed::Content)?;
    let mut reader = Reader { bytes: body, at: 0 };
    let text = match signature.as_bytes() {
        [b's' | b'o', ..] => Some(reader.text()?),
        [b'v', ..] => match reader.value()? {
            Value::Text(text) => Some(text),
            _ => None,
        },
        _ => None,
    };
    let text = if is_error { text.or(name) } else { text };
    Ok(Some(Reply { serial, text: text.map(str::to_owned), is_error }))
}

/// A value with its type before it.
enum Value<'a> {
    Text(&'a str),
    Signature(&'a str),
    Number(u32),
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(length).ok_or(Malformed::Content)?;
        let taken = self.bytes.get(self.at..end).ok_or(Malformed::Content)?;
        self.at = end;
        Ok(taken)
    }

    fn align(&mut self, to: usize) -> Result<(), Malformed> {
        self.take(self.at.next_multiple_of(to) - self.at).map(drop)
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(self.take(1)?[0])
    }

    fn number(&mut self) -> Result<u32, Malformed> {
        self.align(4)?;
        let bytes = self.take(4)?.try_into().map_err(|_| Malformed::Content)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn text(&mut self) -> Result<&'a str, Malformed> {
        let length = usize::try_from(self.number()?).map_err(|_| Malformed::Content)?;
        self.ended(length)
    }

    fn signature(&mut self) -> Result<&'a str, Malformed> {
        let length = usize::from(self.byte()?);
        self.ended(length)
    }

    /// A text of this length, and the zero behind it.
    fn ended(&mut self, length: usize) -> Result<&'a str, Malformed> {
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| Malformed::Content)?;
        if self.byte()? == 0 { Ok(text) } else { Err(Malformed::Content) }
    }

    fn value(&mut self) -> Result<Value<'a>, Malformed> {
        match self.signature()? {
            "s" | "o" => self.text().map(Value::Text),
            "g" => self.signature().map(Value::Signature),
            "u" => self.number().map(Value::Number),
            _ => Err(Malformed::Content),
        }
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text.as_deref().unwrap_or("no reason"))
    }
}

/// The length of the first part of a message.
pub const FIXED: usize = 16;
/// The longest message that is read, without its head. An answer has some hundred bytes.
const MOST: usize = 64 * 1024;
const LITTLE_ENDIAN: u8 = b'l';
const VERSION: u8 = 1;
const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
/// An attestation starts no service.
const NO_AUTO_START: u8 = 2;
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A message as a bus writes it: fields, and a body with this signature.
    fn message(
        kind: u8,
        error_name: Option<&str>,
        signature: &str,
        body: impl FnOnce(&mut Writer),
    ) -> Vec<u8> {
        let mut fields = Writer::default();
        if let Some(name) = error_name {
            fields.field(ERROR_NAME, "s", name);
        }
        fields.align(8);
        fields.0.push(REPLY_SERIAL);
        fields.signature("u");
        fields.number(7);
        fields.field(DESTINATION, "s", ":1.5");
        if !signature.is_empty() {
            fields.align(8);
            fields.0.push(SIGNATURE);
            fields.signature("g");
            fields.signature(signature);
        }
        let mut content = Writer::default();
        body(&mut content);
        let mut message = Writer(vec![LITTLE_ENDIAN, kind, 0, VERSION]);
        message.number(length(content.0.len()));
        message.number(99);
        message.number(length(fields.0.len()));
        message.0.append(&mut fields.0);
        message.align(8);
        message.0.append(&mut content.0);
        message.0
    }

    fn parse(message: &[u8]) -> Result<Option<Reply>, Malformed> {
        let head = Head::parse(*message.first_chunk().ok_or(Malformed::Head)?)?;
        let rest = &message[FIXED..];
        reply(head, rest.get(..head.rest()).ok_or(Malformed::Content)?)
    }

    fn answer(text: Option<&str>, is_error: bool) -> Result<Option<Reply>, Malformed> {
        Ok(Some(Reply { serial: 7, text: text.map(str::to_owned), is_error }))
    }

    #[test]
    fn a_call_is_the_bytes_that_the_specification_says() {
        let call = Call {
            destination: "a.b",
            path: "/c",
            interface: "d.e",
            member: "F",
            arguments: Arguments::Number(5),
        };
        let expected: &[&[u8]] = &[
            b"l\x01\x02\x01\x04\0\0\0\x09\0\0\0\x47\0\0\0",
            b"\x01\x01o\0\x02\0\0\0/c\0\0\0\0\0\0",
            b"\x02\x01s\0\x03\0\0\0d.e\0\0\0\0\0",
            b"\x03\x01s\0\x01\0\0\0F\0\0\0\0\0\0\0",
            b"\x06\x01s\0\x03\0\0\0a.b\0\0\0\0\0",
            b"\x08\x01g\0\x01u\0\0",
            b"\x05\0\0\0",
        ];
        assert_eq!(call.encode(9), expected.concat());
    }

    #[test]
    fn answers() {
        let text = |text: &'static str| move |body: &mut Writer| body.text(text);
        assert_eq!(parse(&message(METHOD_RETURN, None, "o", text("/unit"))), answer(Some("/unit"), false));
        assert_eq!(parse(&message(METHOD_RETURN, None, "", |_| {})), answer(None, false));
        let variant = |signature: &'static str| {
            move |body: &mut Writer| {
                body.signature(signature);
                body.text("web.service");
            }
        };
        assert_eq!(
            parse(&message(METHOD_RETURN, None, "v", variant("s"))),
            answer(Some("web.service"), false)
        );
        assert_eq!(parse(&message(METHOD_RETURN, None, "v", variant("as"))), Err(Malformed::Content));
        let number = |body: &mut Writer| body.number(1);
        assert_eq!(parse(&message(METHOD_RETURN, None, "u", number)), answer(None, false));
        assert_eq!(parse(&message(ERROR, Some("e.f"), "s", text("why"))), answer(Some("why"), true));
        assert_eq!(parse(&message(ERROR, Some("e.f"), "", |_| {})), answer(Some("e.f"), true));
        // A signal.
        assert_eq!(parse(&message(4, None, "s", text("x"))), Ok(None));
    }

    #[test]
    fn refusals() {
        let whole = message(METHOD_RETURN, None, "o", |body| body.text("/unit"));
        for length in 0..whole.len() {
            assert!(parse(&whole[..length]).is_err(), "{length}");
        }
        let mut other = whole.clone();
        other[0] = b'B';
        assert_eq!(parse(&other), Err(Malformed::Head));
        for at in [4, 12] {
            let mut long = whole.clone();
            long[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
            assert_eq!(parse(&long), Err(Malformed::TooLong));
            long[at..at + 4].copy_from_slice(&(64 * 1024_u32).to_le_bytes());
            assert_eq!(parse(&long), Err(Malformed::TooLong));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes: Vec<u8>, at in 0_usize..200, byte: u8) {
            let _ = parse(&bytes);
            let mut damaged = message(ERROR, Some("e.f"), "s", |body| body.text("why"));
            let at = at % damaged.len();
            damaged[at] = byte;
            let _ = parse(&damaged);
        }
    }
}
