package main

import "github.com/spf13/cobra"

// streamCommands are those of bup's commands that make and read streams, look at the
// repository's files, or help those who test.
func (a *app) streamCommands() []*cobra.Command {
	return []*cobra.Command{
		a.splitCommand(), a.joinCommand(), a.onCommand(), a.onServerCommand(), a.muxCommand(), a.daemonCommand(),
		a.listIdxCommand(), a.marginCommand(), a.midxCommand(), a.bloomCommand(), a.featuresCommand(),
		a.randomCommand(), a.damageCommand(), a.tickCommand(), a.memtestCommand(),
	}
}
