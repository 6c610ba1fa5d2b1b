package job

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// Procedure tells people how a host is recovered, in words that stand alone: whoever reads
// them may have nothing else. All kits are of one host and one repository; by is the version
// of kedge that wrote them.
func Procedure(kits []Kit, by string) []byte {
	if len(kits) == 0 {
		return nil
	}
	k := &kits[0]
	var b bytes.Buffer
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("HOW TO GET %s BACK\n", strings.ToUpper(k.Host))
	p("Kedge %s wrote this. Nothing of the old machine is needed for it.\n", by)
	p("1. Take a machine with Linux, best of the same kind and release, and become root on it.")
	p("   Install kedge: its package, or the one static binary. Install the database servers, and")
	p("   start them; they may be empty.\n")
	p("2. Have a way to the data.\n")
	k.ways(p)
	p("3. See what would be done, and do it:\n")
	for _, from := range k.from() {
		p("       kedge recover --dry-run %s", from)
		p("       kedge recover %s\n", from)
	}
	p("   What is in the way is moved aside to NAME.before-restore-TIME. Nothing is deleted. If it")
	p("   is cut short, the same command again goes on. Exit code 0: everything is back. 3: what")
	p("   the last lines name is not.\n")
	p("What is saved there:\n")
	for i := range kits {
		kits[i].holds(p)
	}
	for _, name := range k.Names {
		if !slices.ContainsFunc(kits, func(k Kit) bool { return k.Name == name }) {
			p("   %s (kedge kit -r … %s says more)", name, name)
		}
	}
	byHand(kits, p)
	return b.Bytes()
}

// ServerProcedure tells people how a server is brought back from its mirror.
func ServerProcedure(s *Server, host, by string, keys []KitKey) []byte {
	var b bytes.Buffer
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("HOW TO GET THE BACKUP SERVER %s BACK\n", strings.ToUpper(host))
	p("Kedge %s wrote this. Its repositories are below %s.\n", by, s.Root)
	for _, key := range keys {
		p("   %s:\n     %s", key.What, key.Key)
	}
	if s.Mirror == nil {
		p("\nIt has no mirror: its disk is all there is.")
		return b.Bytes()
	}
	options := ""
	if s.Mirror.Endpoint != "" {
		options = " --endpoint " + quoteWord(s.Mirror.Endpoint)
	}
	if slices.ContainsFunc(keys, func(key KitKey) bool { return key.What == KeySignsMirror }) {
		options += " --trust FILE-WITH-THE-LINE-ABOVE"
	}
	p("\n1. Install kedge on a new machine, and have the credentials of the mirror: AWS_ACCESS_KEY_ID,")
	p("   AWS_SECRET_ACCESS_KEY, AWS_REGION.\n")
	p("2. Bring the repositories back. Cut short, the same command goes on:\n")
	p("       kedge mirror --pull --root %s%s %s\n", quoteWord(s.Root), options, quoteWord(s.Mirror.To))
	p("3. Who may log in is not for a mirror to say: look at %s/.kedge.restored, and move what is", s.Root)
	p("   right to %s/.kedge. Hosts know the server by its key; a new one has to be told to them.\n", s.Root)
	p("A host can be recovered without the server:\n")
	p("       kedge ls -r %s/", quoteWord(strings.TrimSuffix(s.Mirror.To, "/")))
	p("       kedge recover%s --from %s --repo REPO", options, quoteWord(s.Mirror.To))
	return b.Bytes()
}

// ways says where the data are, and who is who there.
func (k *Kit) ways(p func(format string, args ...any)) {
	if strings.Contains(k.Repository, ":") {
		p("   The backup server: %s", k.Repository)
		p("     A key that it lets in is needed. If the old one is lost, let a new one in there:")
		p("       kedge client add %s NEW.pub --role read\n", repoOf(k.Repository))
	} else {
		p("   The repository: %s\n", k.Repository)
	}
	if k.Mirror != "" {
		p("   The mirror: %s", k.Mirror)
		p("     Credentials are needed: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION.\n")
	}
	for _, key := range k.Keys {
		p("   %s:\n     %s", key.What, key.Key)
	}
	if len(k.Keys) > 0 {
		p("")
	}
}

// repoOf returns the name of the repository at the end of an address.
func repoOf(address string) string { return address[strings.LastIndexAny(address, "/:")+1:] }

// from returns the options that say where a recovery takes its data from.
func (k *Kit) from() []string {
	list := []string{"--from " + quoteWord(k.Repository)}
	if strings.Contains(k.Repository, ":") {
		list[0] += " --ssh-key KEYFILE"
	}
	if k.Mirror != "" {
		from := "--from " + quoteWord(k.Mirror)
		if k.Endpoint != "" {
			from += " --endpoint " + quoteWord(k.Endpoint)
		}
		if slices.ContainsFunc(k.Keys, func(key KitKey) bool { return key.What == KeySignsMirror }) {
			from += " --trust FILE-WITH-THE-LINE-ABOVE"
		}
		list = append(list, from)
	}
	return list
}

// KeySignsMirror is what a key does by which a mirror is signed.
const KeySignsMirror = "The mirror is signed by"

// holds says what is in a save, and what it takes to get that back.
func (k *Kit) holds(p func(format string, args ...any)) {
	p("   %s (job %s)", k.Name, k.Job)
	for _, dir := range k.Paths {
		p("       %s", dir.Place)
	}
	for _, s := range k.Streams {
		what := s.Preset
		for _, word := range []string{s.Database, s.File} {
			if word != "" {
				what += " " + word
			}
		}
		if what == "" {
			what = "a command"
		}
		p("       stream %s: %s", s.Name, strings.TrimSpace(what))
		if s.Secret != "" {
			p("         its password is read from %s, mode 0600", s.Secret)
		}
		if s.Preset == "" && s.Restore == "" {
			p("         the config does not say what reads it: it is in the save at %s", s.Path)
		}
	}
	for _, command := range k.Recover {
		p("       at the end: %s", command)
	}
}

// byHand says how it goes without kedge recover, and without kedge.
func byHand(kits []Kit, p func(format string, args ...any)) {
	at := "-r " + quoteWord(kits[0].Repository)
	p("\nBy hand, one after the other:\n")
	p("       kedge ls %s", at)
	for i := range kits {
		k := &kits[i]
		for _, dir := range k.Paths {
			p("       kedge restore %s --system -C %s %s", at, quoteWord(parentOf(dir.Place)), quoteWord(k.Name+"/latest"+dir.Place))
		}
		for j := range k.Streams {
			s := k.Streams[j].Stream()
			line := fmt.Sprintf("       kedge cat-file %s %s", at, quoteWord(k.Name+"/latest"+s.Path))
			if command, err := s.command(true, s.Secret); err == nil {
				line += " | " + command
			}
			p("%s", line)
		}
	}
	p("\nWithout kedge: the repository is a bare git repository, in which git log NAME shows the saves")
	p("and git cat-file their files; bup restores it. Beside the packs of a mirror stands")
	p("RESTORE.txt, which says it step by step.")
}

func parentOf(p string) string {
	if i := strings.LastIndexByte(p, '/'); i > 0 {
		return p[:i]
	}
	return "/"
}
