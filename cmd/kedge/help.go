package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

const helpHelp = `Help shows what a command does and its options, or lists the commands.`

const exitCodesHelp = `Every command ends with one of these codes:
`

// usageTemplate is what --help prints after the text of a command.
const usageTemplate = `Usage:
{{if .HasParent}}  {{.Parent.CommandPath}} {{.Use}}{{else}}  {{.Use}}{{end}}
{{if .Aliases}}
Names:
  {{.NameAndAliases}}
{{end}}{{if .HasExample}}
Examples:
{{.Example}}
{{end}}{{if .HasAvailableSubCommands}}
Commands:{{range .Commands}}{{if .IsAvailableCommand}}
  {{rpad .Name 12}}{{.Short}}{{end}}{{end}}
{{end}}{{if .HasAvailableLocalFlags}}
Options:
{{.LocalFlags.FlagUsagesWrapped 80}}{{end}}{{if .HasParent}}{{if .HasAvailableSubCommands}}
'{{.CommandPath}} COMMAND --help' says more about a command.{{end}}
Exit codes: '{{.Root.Name}} help exit-codes', docs/exit-codes.md.
{{else}}
'{{.Name}} help COMMAND' says more about a command, '{{.Name}} help exit-codes' what its
exit code means.
{{end}}`

const helpTemplate = `{{with .Long}}{{. | trimTrailingWhitespaces}}

{{end}}{{if or .Runnable .HasSubCommands}}{{.UsageString}}{{end}}`

func (a *app) helpCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "explain a command",
		Long:  helpHelp,
		Args:  countArgs(cobra.MaximumNArgs(1)),
		ValidArgsFunction: func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
			var names []string
			for _, c := range cmd.Root().Commands() {
				if c.IsAvailableCommand() || c.IsAdditionalHelpTopicCommand() {
					names = append(names, c.Name()+"\t"+c.Short)
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
	}
	a.commonFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Root().Help()
		}
		c := findCommand(cmd.Root(), args[0])
		if c == nil {
			return unknownCommand(cmd.Root(), args[0])
		}
		return c.Help()
	}
	return cmd
}

// exitCodesTopic is a page of the help that is no command.
func (a *app) exitCodesTopic() *cobra.Command {
	var b strings.Builder
	b.WriteString(exitCodesHelp)
	for _, e := range exitText {
		fmt.Fprintf(&b, "\n    %-5d%s", e.code, e.text)
	}
	return &cobra.Command{Use: "exit-codes", Short: "what the exit codes mean", Long: b.String()}
}
