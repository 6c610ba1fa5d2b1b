package main

import (
	"github.com/spf13/pflag"
)

// grantFlags are the options that say what a key may do. They are put together to the
// words that stand in authorized_keys and read by the one parser of these, so that an
// option means the same wherever it is given.
type grantFlags struct {
	repos       []string
	role        string
	noRead      bool
	names       []string
	quota, root string
}

func (o *grantFlags) flags(f *pflag.FlagSet) {
	f.StringVar(&o.role, "role", "", "the client may do what the `ROLE` append, read or mirror allows")
	f.BoolVar(&o.noRead, "no-read", false, "with append: what was saved cannot be read back")
	f.StringArrayVar(&o.names, "names", nil, "with append: only save names that match `GLOB` (may be repeated)")
	f.StringVar(&o.quota, "quota", "", "with append: the repository may grow to `SIZE`")
}

// words returns the options as they stand in authorized_keys.
func (o *grantFlags) words() []string {
	var words []string
	add := func(name, value string) {
		if value != "" {
			words = append(words, name+"="+value)
		}
	}
	for _, r := range o.repos {
		words = append(words, "--repo="+r)
	}
	add("--role", o.role)
	if o.noRead {
		words = append(words, "--no-read")
	}
	for _, n := range o.names {
		words = append(words, "--names="+n)
	}
	add("--quota", o.quota)
	add("--root", o.root)
	return words
}
