//! Reads which plugins a file declares. `validate` checks this, too: a block that cannot be read makes the file
//! invalid.

use std::cell::RefCell;
use std::collections::BTreeSet;

use super::builtin::{PluginType, no_builtin, replacement};
use crate::Warning;
use crate::decode::{Section, Strictness, no_hint, objects_of};
use crate::hcl::{Item, Key, Kind, Object, Value};
use crate::report::Report;

/// One plugin in the file.
pub(super) struct Declared<'a> {
    /// The plugin's type, as it is written.
    pub(super) kind: &'a str,
    pub(super) name: &'a str,
    pub(super) line: u32,
    /// Whether it has a `plugin_cmd`, and so is a program of its own.
    pub(super) external: bool,
    pub(super) enabled: bool,
    pub(super) data: Data<'a>,
    /// Keys of the data that do nothing, found when it is read.
    pub(super) warnings: RefCell<Vec<Warning>>,
}

/// Where the configuration of a plugin comes from.
pub(super) enum Data<'a> {
    None,
    Inline(Vec<&'a Object>),
    /// The value of `plugin_data` is no block.
    Unreadable,
    File(String),
}

pub(super) fn read<'a>(top: &Section<'a>) -> Vec<Declared<'a>> {
    let mut declared = Vec::new();
    let mut seen = BTreeSet::new();
    let report: &'a Report = top.report();
    for block in blocks(top) {
        for kind in &block.items {
            for (key, value) in members(kind, report) {
                if !seen.insert((&kind.key.name, &key.name)) {
                    let message =
                        format!("plugin {:?}/{:?} declared more than once", kind.key.name, key.name);
                    report.problem(key.line, message);
                } else if let Some(plugin) = plugin(&kind.key.name, key, value, report) {
                    refuse_dropped(&plugin, report);
                    declared.push(plugin);
                }
            }
        }
    }
    declared
}

/// Reports a plugin that spire-agent no longer has, and what to write instead. Nothing must be loaded to know that.
fn refuse_dropped(plugin: &Declared<'_>, report: &Report) {
    let Some(kind) = PluginType::from_name(plugin.kind).filter(|_| plugin.enabled && !plugin.external) else {
        return;
    };
    // Other problems of its data do not matter any more.
    let unheard = Report::default();
    let cluster = match &plugin.data {
        Data::Inline(blocks) => Section::new("", blocks.clone(), None, &unheard).text("cluster"),
        _ => None,
    };
    let cluster = cluster.as_ref().map(|cluster| &*cluster.value);
    if let Some(instead) = replacement(kind, plugin.name, cluster) {
        report.problem(plugin.line, format!("{}; {instead}", no_builtin(kind, plugin.name)));
    }
}

/// The blocks that count. Of repeated `plugins { }` blocks spire-agent takes the last; it joins those with labels
/// (`plugins "TYPE" "name" { }`) and lists in JSON.
fn blocks<'a>(top: &Section<'a>) -> Vec<&'a Object> {
    let report = top.report();
    let items = top.items("plugins");
    if items.is_empty() {
        report.problem(None, "plugins section must be configured");
    }
    let labelled = |item: &&&Item| matches!(&item.value.kind, Kind::Object(object) if object.labelled);
    let (joined, whole): (Vec<&Item>, Vec<&Item>) = items.iter().partition(|item| labelled(item));
    match whole.split_last() {
        None => joined.iter().flat_map(|item| top.objects("plugins", &item.value)).collect(),
        Some((last, overridden)) => {
            for item in overridden.iter().chain(&joined) {
                report.warn(format!(
                    "The plugins block of line {} is ignored: only the last one, of line {}, counts",
                    item.key.line, last.key.line
                ));
            }
            top.objects("plugins", &last.value)
        }
    }
}

/// The named members of a plugin type.
fn members<'a>(kind: &'a Item, report: &Report) -> Vec<(&'a Key, &'a Value)> {
    let Some(objects) = objects_of(&kind.value) else {
        let name = &kind.key.name;
        report.problem(
            kind.key.line,
            format!("plugins.{name}: write {name} \"name\" {{ plugin_data {{ … }} }}"),
        );
        return Vec::new();
    };
    objects.into_iter().flat_map(|object| &object.items).map(|item| (&item.key, &item.value)).collect()
}

fn plugin<'a>(kind: &'a str, key: &'a Key, value: &'a Value, report: &'a Report) -> Option<Declared<'a>> {
    let fail = |message: String| {
        report.problem(
            key.line,
            format!("failed to create plugin config for {kind:?}/{:?}: {message}", key.name),
        );
    };
    let Some(objects) = objects_of(value) else {
        fail("write a block, { plugin_data { … } }".to_owned());
        return None;
    };
    if objects.len() > 1 {
        report.problem(key.line, format!("plugin {kind:?}/{:?} declared more than once", key.name));
    }
    let path = format!("plugins.{kind}.{}", key.name);
    let section = Section::new(&path, objects, Some(key.line), report);
    let file = section.text("plugin_data_file");
    let inline = section.items("plugin_data").last().map(|item| &item.value);
    let data = match (inline.filter(|value| value.kind != Kind::Null), file) {
        (Some(_), Some(_)) => {
            fail("only one of [plugin_data, plugin_data_file] can be used".to_owned());
            return None;
        }
        (None, Some(file)) => Data::File(file.value),
        (None, None) => Data::None,
        (Some(value), None) => match objects_of(value) {
            Some(objects) if objects.iter().all(|object| object.items.is_empty()) => Data::None,
            Some(objects) => Data::Inline(objects),
            None => Data::Unreadable,
        },
    };
    let declared = Declared {
        kind,
        name: &key.name,
        line: key.line,
        external: section.text("plugin_cmd").is_some(),
        enabled: section.flag("enabled").is_none_or(|flag| flag.value),
        data,
        warnings: RefCell::default(),
    };
    section.texts("plugin_args");
    section.text("plugin_checksum");
    section.finish(Strictness::Ignore, &path, no_hint);
    Some(declared)
}
