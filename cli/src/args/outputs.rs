//! What each command prints and ends with: the source of its `-o`, of the end of its help, and of what is refused.

use clap::{Arg, CommandFactory as _, FromArgMatches as _};

use super::{Args, Command, Output};
use crate::output::Format;
use crate::usage::usage;

/// Of one command.
#[derive(Debug, Clone, Copy)]
struct Sheet {
    command: &'static str,
    /// What `-o` may be; none where there is no choice.
    outputs: &'static [Output],
    /// What each is for.
    meaning: &'static str,
    /// What exit codes 0 and 1 mean.
    codes: (&'static str, &'static str),
}

impl Args {
    /// What can be typed, each command with its own `-o`.
    pub fn tree() -> clap::Command {
        let mut tree = Self::command();
        let global: Vec<Arg> = tree.get_arguments().filter(|arg| arg.is_global_set()).cloned().collect();
        for sheet in SHEETS {
            tree = tree.mut_subcommand(sheet.command, |command| {
                let mut text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                text.push_str(&sheet.exit_codes());
                // An argument of the same id stands for the global one.
                global.iter().fold(command.after_help(text), |command, arg| command.arg(sheet.own(arg)))
            });
        }
        tree
    }

    /// What was typed, or what clap says instead: help, version, or what is wrong.
    pub fn parse_from(words: impl IntoIterator<Item = std::ffi::OsString>) -> Result<Self, clap::Error> {
        let matches = Self::tree().try_get_matches_from(words)?;
        Self::from_arg_matches(&matches).map_err(|error| error.format(&mut Self::tree()))
    }

    /// Refuses a `-o` that the command does not have, before anything is done.
    pub fn check_output(&self) -> anyhow::Result<()> {
        let sheet = self.command.sheet();
        match self.output {
            Some(output) if !sheet.outputs.contains(&output) => {
                let command = sheet.command;
                let has = match sheet.outputs {
                    [] => "it has no -o".to_owned(),
                    outputs => format!("it has -o {}", or(outputs)),
                };
                Err(usage(format!("meshctl {command} cannot print {}; {has}", output.as_str())))
            }
            _ => Ok(()),
        }
    }

    /// The format of a command that answers in tables.
    pub fn format(&self) -> Format {
        if self.output == Some(Output::Json) { Format::Json } else { Format::Table }
    }
}

impl Command {
    fn name(&self) -> &'static str {
        match self {
            Self::Install(_) => "install",
            Self::Upgrade(_) => "upgrade",
            Self::Uninstall(_) => "uninstall",
            Self::Inject(_) => "inject",
            Self::Uninject(_) => "uninject",
            Self::Check(_) => "check",
            Self::Analyze(_) => "analyze",
            Self::Stat(_) => "stat",
            Self::Edges(_) => "edges",
            Self::Identity(_) => "identity",
            Self::ProxyStatus(_) => "proxy-status",
            Self::Version(_) => "version",
            Self::Explain(_) => "explain",
            Self::Demo(_) => "demo",
            Self::Completion { .. } => "completion",
        }
    }

    fn sheet(&self) -> &'static Sheet {
        let name = self.name();
        SHEETS.iter().find(|sheet| sheet.command == name).expect("each command has a sheet: a test looks")
    }
}

impl Output {
    fn as_str(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Wide => "wide",
            Self::Json => "json",
            Self::Yaml => "yaml",
        }
    }
}

impl Sheet {
    /// The command's own spelling of a global argument: shown only where it does something.
    fn own(&self, arg: &Arg) -> Arg {
        let arg = arg.clone();
        match arg.get_id().as_str() {
            "output" if self.outputs.is_empty() => arg.hide(true),
            "output" => arg.help(self.meaning),
            "demo_dir" if NO_DEMO.contains(&self.command) => arg.hide(true),
            "demo_dir" if self.command == "demo" => arg.help("Directory to run in [default: one that is usual]"),
            "kubeconfig" | "context" if NO_CLUSTER.contains(&self.command) => arg.hide(true),
            _ => arg,
        }
    }

    fn exit_codes(&self) -> String {
        let (well, failed) = self.codes;
        format!("\n\nExit codes: 0 {well}; 1 {failed}; 2 a flag, or a value or file that one names, cannot be used.")
    }
}

/// `table, json or yaml`.
fn or(outputs: &[Output]) -> String {
    let names: Vec<&str> = outputs.iter().map(|output| output.as_str()).collect();
    match names.split_last() {
        Some((last, [])) => (*last).to_owned(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => String::new(),
    }
}

const TABLE: &str = "How to print: table for people, json for programs [default: table]";
const ANSWERED: (&str, &str) =
    ("when a proxy answered", "when none did, what was named is not there, or no mesh can be reached");
const SHEETS: [Sheet; 15] = [
    Sheet {
        command: "install",
        outputs: &[Output::Table, Output::Json, Output::Yaml],
        meaning: "How to print: table, what was done, for people; json, the same for programs; yaml, the objects that would be \
                  applied, and nothing is done and no cluster is asked [default: table]",
        codes: (
            "when the mesh is installed",
            "when it is not, or not yet: the message says why, and it can be run again",
        ),
    },
    Sheet {
        command: "upgrade",
        outputs: &[Output::Table, Output::Json, Output::Yaml],
        meaning: "How to print: table, what was done (with --plan: would be), for people; json, the same for programs; yaml, the \
                  objects with the values of the last installation, and nothing is done [default: table]",
        codes: (
            "when this version is installed, or the plan made",
            "when not: the message says why, and it can be run again",
        ),
    },
    Sheet {
        command: "uninstall",
        outputs: &[Output::Table, Output::Json],
        meaning: "How to print: table, what was deleted and what kept, for people; json, the same for programs [default: table]",
        codes: ("when the mesh is out, or was not there", "when it is refused, or came to no end: it can be run again"),
    },
    Sheet {
        command: "inject",
        outputs: &[Output::Yaml, Output::Json],
        meaning: "How to write every document: yaml or json [default: each as it came]",
        codes: (
            "when everything is written",
            "when something to read is no manifest, or is to have a proxy by --manual and cannot: nothing is written then",
        ),
    },
    Sheet {
        command: "uninject",
        outputs: &[Output::Yaml, Output::Json],
        meaning: "How to write every document: yaml or json [default: each as it came]",
        codes: ("when everything is written", "when something to read is no manifest: nothing is written then"),
    },
    Sheet {
        command: "check",
        outputs: &[Output::Table, Output::Json],
        meaning: "How to print: table, a line for each check and what to do, for people; json, the same for programs, each check with \
                  a name that stays [default: table]",
        codes: ("when nothing failed (warnings are no failure)", "when a check failed, or nothing can be reached"),
    },
    Sheet {
        command: "analyze",
        outputs: &[Output::Table, Output::Json],
        meaning: "How to print: table, a line for each finding, for people; json, one document with file, line and field of each, for \
                  programs [default: table]",
        codes: ("when there is no error (warnings are none)", "when there is one, or the cluster cannot be read"),
    },
    Sheet {
        command: "stat",
        outputs: &[Output::Table, Output::Wide, Output::Json],
        meaning: "How to print: table for people; wide, a table with 4xx and failures per second as well; json, all figures for \
                  programs [default: table]",
        codes: ANSWERED,
    },
    Sheet { command: "edges", outputs: &[Output::Table, Output::Json], meaning: TABLE, codes: ANSWERED },
    Sheet { command: "identity", outputs: &[Output::Table, Output::Json], meaning: TABLE, codes: ANSWERED },
    Sheet { command: "proxy-status", outputs: &[Output::Table, Output::Json], meaning: TABLE, codes: ANSWERED },
    Sheet {
        command: "version",
        outputs: &[Output::Table, Output::Json],
        meaning: TABLE,
        codes: ("when the versions are told", "when the cluster that is meant cannot be asked"),
    },
    Sheet {
        command: "explain",
        outputs: &[Output::Table, Output::Json],
        meaning: TABLE,
        codes: ("when it is explained", "when it cannot be printed"),
    },
    Sheet {
        command: "demo",
        outputs: &[],
        meaning: "",
        codes: (
            "when it ran and was ended (with --once: when all of it is right)",
            "when it cannot run, or something is wrong",
        ),
    },
    Sheet {
        command: "completion",
        outputs: &[],
        meaning: "",
        codes: ("when the script is printed", "when it cannot be"),
    },
];
/// Commands that look at no running demo.
const NO_DEMO: [&str; 7] = ["install", "upgrade", "uninstall", "inject", "uninject", "explain", "completion"];
/// Commands that look at no cluster.
const NO_CLUSTER: [&str; 4] = ["uninject", "explain", "demo", "completion"];

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<Args, clap::Error> {
        Args::parse_from(words.split(' ').map(Into::into))
    }

    #[test]
    fn the_tree_is_consistent_and_each_command_has_a_sheet() {
        let mut tree = Args::tree();
        tree.clone().debug_assert();
        tree.build();
        let commands: Vec<&str> = tree.get_subcommands().map(clap::Command::get_name).collect();
        let known: Vec<&str> = SHEETS.iter().map(|sheet| sheet.command).chain(["help"]).collect();
        let (mut sorted, mut listed) = (commands.clone(), known.clone());
        sorted.sort_unstable();
        listed.sort_unstable();
        assert_eq!(sorted, listed);
        for command in tree.get_subcommands_mut().filter(|command| command.get_name() != "help") {
            let help = command.render_help().to_string();
            assert!(help.contains("Exit codes: 0 when"), "{help}");
        }
    }

    /// Guides name commands, annotations and values by heart.
    #[test]
    fn guides_name_what_there_is() {
        let guides = [
            include_str!("../../../README.md"),
            include_str!("../../../docs/from-linkerd-or-istio.md"),
            include_str!("../../../docs/production.md"),
        ];
        let tree = Args::tree();
        for guide in guides {
            let words = |after: &'static str| {
                let ends = |c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '.';
                guide.split(after).skip(1).map(move |rest| rest.split(ends).next().unwrap_or_default())
            };
            for word in words("`meshctl ").chain(words("\nmeshctl ")) {
                assert!(tree.find_subcommand(word).is_some(), "meshctl {word}");
            }
            for word in words("`meshctl.io/").filter(|word| !word.starts_with("mesh-")) {
                let key = format!("meshctl.io/{word}");
                assert!(crate::analyze::annotations::KEYS.contains(&key.as_str()) || word == "v1alpha1", "{key}");
            }
            for word in words("--set ").filter(|word| word.contains('.')) {
                let values = crate::charts::values::read("", crate::charts::MESH.values).unwrap();
                assert!(values.pointer(&format!("/{}", word.replace('.', "/"))).is_some(), "{word}");
            }
        }
    }

    #[test]
    fn headings_stand_over_their_own_flags() {
        let shown = parse("meshctl check --help").unwrap_err().to_string();
        let at = |text: &str| shown.find(text).unwrap_or_else(|| panic!("{text}: {shown}"));
        assert!(at("--wait") < at("With --pre: ") && at("With --pre: ") < at("--set-string"), "{shown}");
    }

    #[test]
    fn output_goes_before_and_after_the_command() {
        for words in [
            "meshctl -o json stat",
            "meshctl stat -o json",
            "meshctl --output=json stat",
            "meshctl -o table stat -o json",
        ] {
            assert_eq!(parse(words).unwrap().output, Some(Output::Json), "{words}");
        }
        assert_eq!(parse("meshctl stat").unwrap().output, None);
    }

    #[test]
    fn help_names_what_a_command_prints_and_no_more() {
        for (command, has, has_not) in [
            ("stat", "wide, a table", "yaml"),
            ("install", "yaml, the objects", "--demo-dir"),
            ("completion", "Exit codes", "--output"),
            ("explain", "json for programs", "--kubeconfig"),
            ("demo", "--demo-dir", "--context"),
            ("check", "--demo-dir", "yaml, the objects"),
        ] {
            let shown = parse(&format!("meshctl {command} --help")).unwrap_err().to_string();
            assert!(shown.contains(has) && !shown.contains(has_not), "{command}:\n{shown}");
        }
    }
}
