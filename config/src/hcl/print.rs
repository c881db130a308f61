//! Writes a tree as HCL 1 text, which is parsed as the same tree again (labels become braces, null an empty string).

use std::fmt::{self, Write};

use super::{Kind, Object, Value};

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for item in &self.items {
            quote(f, &item.key.name)?;
            writeln!(f, " = {}", item.value)?;
        }
        Ok(())
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Null => f.write_str("\"\""),
            Kind::Bool(value) => value.fmt(f),
            Kind::Integer(text) | Kind::Float(text) => f.write_str(text),
            Kind::Text(text) => quote(f, text),
            Kind::List(values) => {
                f.write_str("[")?;
                for value in values {
                    write!(f, "{value}, ")?;
                }
                f.write_str("]")
            }
            Kind::Object(object) => write!(f, "{{\n{object}}}"),
        }
    }
}

fn quote(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_char('"')?;
    for c in text.chars() {
        match c {
            '"' | '\\' => write!(f, "\\{c}")?,
            // A `$` could begin an interpolation, in which nothing is unescaped.
            '$' => f.write_str("\\x24")?,
            c if c.is_control() => write!(f, "\\u{:04x}", u32::from(c))?,
            c => f.write_char(c)?,
        }
    }
    f.write_char('"')
}
