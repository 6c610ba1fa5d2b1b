package main

import (
	"context"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

const completionHelp = `Completion prints a script that makes a shell complete the commands, options and
names of kedge. For this session of bash:

    source <(kedge completion bash)

For good, put its output where the shell looks: for bash in
/usr/share/bash-completion/completions/kedge, for zsh in a directory of $fpath under
the name _kedge, for fish in ~/.config/fish/completions/kedge.fish. For bash, the
package bash-completion has to be there.`

func (a *app) completionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:       "completion bash|zsh|fish",
		Short:     "print a completion script for a shell",
		Long:      completionHelp,
		Example:   "  kedge completion zsh > ~/.zsh/completions/_kedge",
		Args:      cobra.ExactArgs(1),
		ValidArgs: []string{"bash", "zsh", "fish"},
	}
	return a.command(cmd, func(_ context.Context, args []string) error {
		switch args[0] {
		case "bash":
			return cmd.Root().GenBashCompletionV2(a.out, true)
		case "zsh":
			return cmd.Root().GenZshCompletion(a.out)
		case "fish":
			return cmd.Root().GenFishCompletion(a.out, true)
		}
		return usagef("there is no completion for the shell %s: bash, zsh and fish are known", quote(args[0]))
	})
}

// plainUsage takes the marks off the help of all options that tell which word of
// it names the value: a shell shows the text as it is.
func plainUsage(cmd *cobra.Command) {
	cmd.Flags().VisitAll(func(f *pflag.Flag) { _, f.Usage = pflag.UnquoteUsage(f) })
	for _, c := range cmd.Commands() {
		plainUsage(c)
	}
}
