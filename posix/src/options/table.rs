//! The options of a program as a table, for `-h`, for looking up names, and for checking the
//! documentation.

use std::fmt;

/// Columns of `-h`.
const WIDTH: usize = 80;
/// The column in which an option's text begins.
const TEXT_COLUMN: usize = 21;
/// Stands for a space at which no line is broken.
const NO_BREAK: &str = "\u{a0}";
/// The greatest edit distance between a name and its suggestion.
const TYPOS_MAX: usize = 3;

/// A program's command line.
#[derive(Clone, Copy, Debug)]
pub struct Command {
    /// The program's name.
    pub name: &'static str,
    /// What follows the name in the usage line.
    pub synopsis: &'static str,
    /// What the program does: a paragraph.
    pub about: &'static str,
    /// Its options, except for `-help` and `-version`, which every program has.
    pub groups: &'static [&'static Group],
    /// Paragraphs after the options. One that begins with a space is not wrapped.
    pub notes: &'static [&'static str],
    /// An example of a command line.
    pub example: &'static str,
}

/// Options that belong together.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// The heading, without its colon.
    pub title: &'static str,
    /// The options, in the order in which they are printed.
    pub options: &'static [Entry],
}

/// One option.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The name, then the aliases, without dashes.
    pub names: &'static [&'static str],
    /// The placeholder of the value; `None` for a switch.
    pub value: Option<&'static str>,
    /// The default, in words; `None` if the text has it, or if the option is required.
    pub default: Option<&'static str>,
    /// Whether the option can be given more than once.
    pub repeated: bool,
    /// The description.
    pub text: &'static str,
}

/// The options of every program.
const COMMON: Group = Group {
    title: "About the program",
    options: &[
        Entry::switch(&["help", "h", "?"], "print this and exit"),
        Entry::switch(&["version", "V"], "print the version and exit"),
    ],
};

impl Entry {
    /// An option without a value.
    pub const fn switch(names: &'static [&'static str], text: &'static str) -> Self {
        Self { names, value: None, default: None, repeated: false, text }
    }

    /// An option with a value.
    pub const fn valued(
        names: &'static [&'static str],
        value: &'static str,
        text: &'static str,
    ) -> Self {
        Self { value: Some(value), ..Self::switch(names, text) }
    }

    /// The same option with a default.
    pub const fn default(self, default: &'static str) -> Self {
        Self { default: Some(default), ..self }
    }

    /// The same option, which can be given more than once.
    pub const fn repeated(self) -> Self {
        Self { repeated: true, ..self }
    }

    /// The name, without aliases.
    pub fn name(&self) -> &'static str {
        self.names.first().copied().unwrap_or_default()
    }
}

impl Command {
    /// The groups of options, the common one last.
    pub fn all_groups(&self) -> impl Iterator<Item = &'static Group> {
        self.groups.iter().copied().chain([&COMMON])
    }

    /// All options, the common ones included.
    pub fn options(&self) -> impl Iterator<Item = &'static Entry> {
        self.all_groups().flat_map(|group| group.options)
    }

    /// The option with this name or alias.
    pub fn find(&self, name: &str) -> Option<&'static Entry> {
        self.options().find(|entry| entry.names.contains(&name))
    }

    /// The name that was probably meant by an unknown one.
    pub fn nearest(&self, name: &str) -> Option<&'static str> {
        let most = (name.chars().count() / 3).min(TYPOS_MAX);
        let names = self.options().flat_map(|entry| entry.names).copied();
        let near = names.map(|known| {
            let is_prefix = name.len() >= 3 && known.starts_with(name);
            (if is_prefix { 1 } else { strsim::osa_distance(name, known) }, known)
        });
        near.filter(|(typos, _)| (1..=most.max(1)).contains(typos))
            .filter(|(_, known)| known.len() > 1)
            .min_by_key(|(typos, _)| *typos)
            .map(|(_, known)| known)
    }
}

/// What `-h` prints.
impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "usage: {} {}\n", self.name, self.synopsis)?;
        wrap(f, self.about, 0, 0)?;
        for group in self.all_groups() {
            write!(f, "\n{}:\n{group}", group.title)?;
        }
        for note in self.notes {
            writeln!(f)?;
            match note.starts_with(' ') {
                true => f.write_str(note)?,
                false => wrap(f, note, 0, 0)?,
            }
        }
        writeln!(f, "\nexample: {}", self.example)
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.options.iter().try_for_each(|entry| entry.fmt(f))
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.names.iter().map(|name| format!("-{name}")).collect();
        let mut head = format!("  {}", names.join(", "));
        if let Some(value) = self.value {
            head = format!("{head} {value}");
        }
        let mut text = self.text.to_owned();
        if let Some(default) = self.default {
            let default = format!("(default: {default})");
            // A short default stays on one line.
            let whole = default.chars().count() <= WIDTH - TEXT_COLUMN;
            let default = if whole { default.replace(' ', NO_BREAK) } else { default };
            text = format!("{text} {default}");
        }
        f.write_str(&head)?;
        let column = head.chars().count();
        if column + 1 >= TEXT_COLUMN {
            writeln!(f)?;
            return wrap(f, &text, 0, TEXT_COLUMN);
        }
        wrap(f, &text, column, TEXT_COLUMN)
    }
}

/// Writes a text in lines of [`WIDTH`] columns. The first line begins at `column`, the others at
/// `indent`.
fn wrap(f: &mut fmt::Formatter<'_>, text: &str, column: usize, indent: usize) -> fmt::Result {
    let mut column = column;
    let mut begun = false;
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let word = word.replace(NO_BREAK, " ");
        let len = word.chars().count();
        if begun && column + 1 + len > WIDTH {
            writeln!(f)?;
            (column, begun) = (0, false);
        }
        let blank = if begun { 1 } else { indent.saturating_sub(column) };
        write!(f, "{:blank$}{word}", "")?;
        column += blank + len;
        begun = true;
    }
    writeln!(f)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMAND: Command = Command {
        name: "dc_x",
        synopsis: "-server addr [options]",
        about: "Does nothing, at some length, so that this sentence has to go on in a second line.",
        groups: &[&Group {
            title: "What it does",
            options: &[
                Entry::valued(&["server", "connect"], "addr", "where the server is"),
                Entry::valued(&["listen"], "addr", "where to listen").default("IP:1").repeated(),
                Entry::valued(&["idle"], "time", "close a client that asks nothing for that long")
                    .default("0, never"),
                Entry::valued(
                    &["sessions"],
                    "n",
                    "how many sessions to hold, said in so many words that they need two lines",
                ),
                Entry::switch(&["daemon"], "detach"),
            ],
        }],
        notes: &["A note.", "  as it is\n"],
        example: "dc_x -server IP:1",
    };

    #[test]
    fn help_is_grouped_wrapped_at_80_columns_and_ends_with_an_example() {
        let expected = "\
usage: dc_x -server addr [options]

Does nothing, at some length, so that this sentence has to go on in a second
line.

What it does:
  -server, -connect addr
                     where the server is
  -listen addr       where to listen (default: IP:1)
  -idle time         close a client that asks nothing for that long
                     (default: 0, never)
  -sessions n        how many sessions to hold, said in so many words that they
                     need two lines
  -daemon            detach

About the program:
  -help, -h, -?      print this and exit
  -version, -V       print the version and exit

A note.

  as it is

example: dc_x -server IP:1
";
        assert_eq!(COMMAND.to_string(), expected);
    }

    #[test]
    fn options_are_found_by_every_name() {
        for (name, found) in [
            ("server", Some("server")),
            ("connect", Some("server")),
            ("h", Some("help")),
            ("V", Some("version")),
            ("serve", None),
            ("", None),
        ] {
            assert_eq!(COMMAND.find(name).map(Entry::name), found, "{name}");
        }
    }

    #[test]
    fn a_misspelled_name_gets_a_suggestion_and_another_word_none() {
        for (name, nearest) in [
            ("lisen", Some("listen")),
            ("lsiten", Some("listen")),
            ("sesions", Some("sessions")),
            ("sess", Some("sessions")),
            ("conect", Some("connect")),
            ("deamon", Some("daemon")),
            ("hlep", Some("help")),
            ("colour", None),
            ("x", None),
            ("", None),
            ("é", None),
        ] {
            assert_eq!(COMMAND.nearest(name), nearest, "{name}");
        }
    }
}
