//! What of the server's environment a command gets: a short list of names, and what is set for it. Secrets that the server
//! was given (`OUTFLOW_…`, passwords of databases) are on no list.

use std::{collections::BTreeMap, ffi::OsString};

use super::ExecError;

/// What a command gets where nothing else is said: where programs, the user's files and temporary files are, who the user
/// is, and how people write there.
const USUAL: [&str; 10] = ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "LC_*", "TZ", "TMPDIR"];
/// Names that begin so are the server's own. A pattern does not mean them.
const OURS: &str = "OUTFLOW_";

/// The environment of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Environment {
    pass: Vec<String>,
    set: BTreeMap<String, String>,
}

/// Passes on what a command usually needs and what tells nothing: `PATH`, `HOME`, `USER`, `LOGNAME`, `SHELL`, `LANG`,
/// `LANGUAGE`, `LC_*`, `TZ` and `TMPDIR`.
impl Default for Environment {
    fn default() -> Self {
        Self { pass: USUAL.map(str::to_owned).to_vec(), set: BTreeMap::new() }
    }
}

impl Environment {
    /// Passes on these of the server's variables, and no others. A name may end in `*`: all that begin so, but never one of
    /// `OUTFLOW_…`, which has to be named.
    ///
    /// # Errors
    /// [`ExecError::Variable`] for what is no name.
    pub fn pass(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Result<Self, ExecError> {
        self.pass = names.into_iter().map(Into::into).collect();
        self.pass.iter().try_for_each(|name| check(name.strip_suffix('*').unwrap_or(name), name))?;
        Ok(self)
    }

    /// Sets a variable, whether or not the server has it. `{id}` in its value is replaced, as in arguments.
    ///
    /// # Errors
    /// [`ExecError::Variable`] for what is no name.
    pub fn set(mut self, name: impl Into<String>, value: impl Into<String>) -> Result<Self, ExecError> {
        let name = name.into();
        check(&name, &name)?;
        if name.is_empty() {
            return Err(ExecError::Variable(name));
        }
        self.set.insert(name, value.into());
        Ok(self)
    }

    /// What is set, by name.
    pub(super) fn values(&self) -> &BTreeMap<String, String> {
        &self.set
    }

    /// Those of `variables` that are passed on.
    pub(super) fn passed(
        &self,
        variables: impl Iterator<Item = (OsString, OsString)>,
    ) -> BTreeMap<OsString, OsString> {
        variables.filter(|(name, _)| name.to_str().is_some_and(|name| self.passes(name))).collect()
    }

    fn passes(&self, name: &str) -> bool {
        self.pass.iter().any(|pass| match pass.strip_suffix('*') {
            Some(start) => name.starts_with(start) && !name.starts_with(OURS),
            None => name == pass,
        })
    }
}

/// What the system takes for a name.
fn check(name: &str, written: &str) -> Result<(), ExecError> {
    if name.contains(['=', '\0', '*']) || written.is_empty() {
        return Err(ExecError::Variable(written.into()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(environment: &Environment) -> Vec<String> {
        let names = ["PATH", "HOME", "LC_ALL", "LANG", "OUTFLOW_DATA", "OUTFLOWER", "DB_PASSWORD", "CARGO_HOME"];
        let variables = names.into_iter().map(|name| (name.into(), "x".into()));
        environment.passed(variables).into_keys().map(|name| name.into_string().unwrap()).collect()
    }

    #[test]
    fn only_what_is_on_the_list_is_passed_on() {
        assert_eq!(passed(&Environment::default()), ["HOME", "LANG", "LC_ALL", "PATH"]);
        let named = Environment::default().pass(["CARGO_*", "PATH", "OUTFLOW_DATA"]).unwrap();
        assert_eq!(passed(&named), ["CARGO_HOME", "OUTFLOW_DATA", "PATH"]);
        let none: [&str; 0] = [];
        assert!(passed(&Environment::default().pass(none).unwrap()).is_empty());
    }

    #[test]
    fn a_pattern_never_means_the_servers_own() {
        for pattern in ["*", "OUT*", "OUTFLOW_*"] {
            let all = passed(&Environment::default().pass([pattern]).unwrap());
            assert!(!all.contains(&"OUTFLOW_DATA".to_owned()), "{pattern}: {all:?}");
        }
    }

    #[test]
    fn what_is_no_name_is_told() {
        for name in ["", "A=B", "A*B", "A\0"] {
            assert!(Environment::default().pass([name]).is_err(), "{name}");
            assert!(Environment::default().set(name, "x").is_err(), "{name}");
        }
        assert!(Environment::default().set("A*", "x").is_err());
    }
}
