//! One `[[source]]` of a configuration as its kind sees it: its own settings, the parameters that requests may have, texts
//! with places, and for whatever is wrong the place in the file. It knows TOML, and nothing of what the settings do.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt,
    ops::Range,
    path::{Path, PathBuf},
};

use serde::de::{Deserialize, DeserializeOwned};
use toml::{
    Spanned,
    de::{DeTable, DeValue, ValueDeserializer},
};

use super::{parameters::Declared, template::Template};

/// What is wrong with a configuration, and at which of its bytes.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) at: Option<Range<usize>>,
    pub(crate) text: String,
}

impl Problem {
    pub(crate) fn new(at: Option<Range<usize>>, text: impl fmt::Display) -> Self {
        Self { at, text: text.to_string() }
    }

    /// What a reader of TOML says, with the known name that is nearest to an unknown one. `also` are names that are known
    /// beside those it tells.
    fn told(error: &toml::de::Error, also: &[&str]) -> Self {
        let said = error.message();
        // serde: "unknown field `x`, expected one of `a`, `b`", and the same for variants.
        let mut names = said.split('`').skip(1).step_by(2);
        let unknown = names.next().filter(|_| said.starts_with("unknown "));
        let near = unknown.and_then(|unknown| nearest(unknown, names.chain(also.iter().copied())));
        let text = match near {
            Some(name) => format!("{said}; did you mean `{name}`?"),
            None => said.to_owned(),
        };
        Self { at: error.span(), text }
    }
}

/// The name that somebody may have meant.
pub(crate) fn nearest<'n>(written: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let near = names.map(|name| (strsim::damerau_levenshtein(written, name), name));
    near.filter(|(steps, name)| *steps <= name.len().div_ceil(3)).min().map(|(_, name)| name)
}

/// A source's table.
pub(crate) struct Entry<'t> {
    table: DeTable<'t>,
    /// Once it is known.
    name: String,
    at: Range<usize>,
    /// Where each value stands, by its keys with dots between.
    places: BTreeMap<String, Range<usize>>,
    parameters: Declared,
    repeatable: Option<bool>,
    folder: PathBuf,
    /// Settings that all kinds have and that are not in the table any more.
    common: &'static [&'static str],
}

impl<'t> Entry<'t> {
    /// The entry in this table, of a file in `folder`.
    pub(crate) fn new(table: Spanned<DeTable<'t>>, folder: &Path, common: &'static [&'static str]) -> Self {
        let at = table.span();
        let table = table.into_inner();
        let mut places = BTreeMap::new();
        note_places(&table, "", &mut places);
        let folder = folder.to_owned();
        Self {
            table,
            name: String::new(),
            at,
            places,
            parameters: Declared::default(),
            repeatable: None,
            folder,
            common,
        }
    }

    /// Takes the values of these keys into a table of their own and reads that.
    pub(crate) fn take<T: DeserializeOwned>(&mut self, keys: &[&str]) -> Result<T, Problem> {
        let table: DeTable<'t> = keys.iter().filter_map(|key| self.table.remove_entry(*key)).collect();
        self.read(table)
    }

    /// Takes the text of a key.
    pub(crate) fn take_text(&mut self, key: &str) -> Result<Option<String>, Problem> {
        match self.table.remove(key).map(Spanned::into_inner) {
            None => Ok(None),
            Some(DeValue::String(text)) => Ok(Some(Cow::into_owned(text))),
            Some(_) => Err(self.problem(key, format_args!("{key}: a text is wanted"))),
        }
    }

    /// Takes the table `parameters`: what requests may say.
    pub(crate) fn take_parameters(&mut self) -> Result<(), Problem> {
        let Some(table) = self.table.remove("parameters") else { return Ok(()) };
        let files =
            BTreeMap::deserialize(ValueDeserializer::from(table)).map_err(|error| Problem::told(&error, &[]))?;
        self.parameters = Declared::new(files).map_err(|(name, problem)| {
            self.problem(&format!("parameters.{name}"), format_args!("parameters.{name}: {problem}"))
        })?;
        Ok(())
    }

    /// What the source is called.
    pub(crate) fn set_name(&mut self, name: &str) {
        name.clone_into(&mut self.name);
    }

    /// What the source is called, for logs.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What the table says of `repeatable`.
    pub(crate) fn set_repeatable(&mut self, repeatable: Option<bool>) {
        self.repeatable = repeatable;
    }

    /// Reads what is left as the settings of the kind.
    ///
    /// # Errors
    /// With the place and, for a name that is not known, what may have been meant.
    pub(crate) fn settings<T: DeserializeOwned>(&mut self) -> Result<T, Problem> {
        let table = std::mem::take(&mut self.table);
        self.read(table)
    }

    fn read<T: DeserializeOwned>(&self, table: DeTable<'t>) -> Result<T, Problem> {
        let table = Spanned::new(self.at.clone(), DeValue::Table(table));
        T::deserialize(ValueDeserializer::from(table)).map_err(|error| Problem::told(&error, self.common))
    }

    /// Where the file is: what a relative path in it is relative to.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// What requests may say.
    pub(crate) fn parameters(&self) -> &Declared {
        &self.parameters
    }

    /// Whether the jobs may be begun again after a restart: as the table says, else `usual`.
    pub(crate) fn repeatable(&self, usual: bool) -> bool {
        self.repeatable.unwrap_or(usual)
    }

    /// A file's path, as seen from the configuration's folder.
    #[cfg(feature = "http")]
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.folder.join(path)
    }

    /// Something wrong with the value of `key`, such as `"command"` or `"urls.1"`.
    pub(crate) fn problem(&self, key: &str, text: impl fmt::Display) -> Problem {
        let mut known = key;
        loop {
            if let Some(at) = self.places.get(known) {
                return Problem::new(Some(at.clone()), text);
            }
            match known.rsplit_once('.') {
                Some((above, _)) => known = above,
                None => return Problem::new(Some(self.at.clone()), text),
            }
        }
    }

    /// The text at `key`, filled for each request.
    ///
    /// # Errors
    /// For a parameter that is not declared, or a secret that cannot be had.
    pub(crate) fn template(&self, key: &str, text: &str) -> Result<Template, Problem> {
        Template::parse(text, &self.parameters, &self.folder)
            .map_err(|error| self.problem(key, format_args!("{key}: {error}")))
    }

    /// The text at `key`, in which only secrets may have a place.
    ///
    /// # Errors
    /// Where it depends on the request, or a secret cannot be had.
    pub(crate) fn constant(&self, key: &str, text: &str) -> Result<Template, Problem> {
        let template = self.template(key, text)?;
        if template.is_constant() {
            return Ok(template);
        }
        let problem = format_args!(
            "{key}: it is the same for every request, so neither {{id}} nor a parameter has a place here"
        );
        Err(self.problem(key, problem))
    }
}

fn note_places(table: &DeTable<'_>, above: &str, places: &mut BTreeMap<String, Range<usize>>) {
    for (key, value) in table {
        note_place(value, format!("{above}{}", key.get_ref()), places);
    }
}

fn note_place(value: &Spanned<DeValue<'_>>, name: String, places: &mut BTreeMap<String, Range<usize>>) {
    match value.get_ref() {
        DeValue::Table(table) => note_places(table, &format!("{name}."), places),
        DeValue::Array(values) => {
            for (n, value) in values.iter().enumerate() {
                note_place(value, format!("{name}.{n}"), places);
            }
        }
        _ => {}
    }
    places.insert(name, value.span());
}
