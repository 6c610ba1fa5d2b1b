package job

import (
	"context"
	"io"
	"os"
)

// Run does what Look said. Body writes the dump; if it fails, the command that reads it is
// killed before it can take what it has for the whole.
func (l *Loading) Run(ctx context.Context, body func(io.Writer) error) error {
	var old []string
	if l.path != "" && !l.block {
		old = l.old()
	}
	if err := l.read(ctx, body); err != nil || !l.Discard {
		return err
	}
	return l.discard(ctx, old)
}

// discard removes what was moved aside.
func (l *Loading) discard(ctx context.Context, old []string) error {
	for _, name := range old {
		if err := os.RemoveAll(name + l.suffix()); err != nil {
			return err
		}
	}
	if l.kind == nil || l.kind.drop == nil {
		return nil
	}
	return l.command(ctx, l.kind.drop(l.Stream, l.suffix()), nil, l.Stderr)
}

// pgDrop drops the databases of which the names end in suffix.
func pgDrop(s *Stream, suffix string) []string {
	return tell(psql(s, "template1"), "SELECT format('DROP DATABASE %I', datname) FROM pg_database WHERE right(datname, "+
		portText(len(suffix))+") = "+literal(suffix)+" \\gexec\n")
}
