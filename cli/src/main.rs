//! The command line. See [`meshctl`] for how its parts fit together.

fn main() -> std::process::ExitCode {
    meshctl::main()
}
