package main

import "github.com/spf13/cobra"

// streamCommands are those of bup's commands that make and read streams, look at the
// repository's files, or help those who test.
func (a *app) streamCommands() []*cobra.Command {
	return []*cobra.Command{
		a.splitCommand(), a.joinCommand(),
	}
}
