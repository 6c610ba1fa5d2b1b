package save

import (
	"fmt"
	"strings"
)

// message is the commit's: trailers that stock git shows, and that ls, status
// and prune read.
func (o *Options) message(r *Result) string {
	var b strings.Builder
	b.WriteString("kedge save\n\n")
	if o.Version != "" {
		fmt.Fprintf(&b, "Kedge-Version: %s\n", oneLine(o.Version))
	}
	if o.Host != "" {
		fmt.Fprintf(&b, "Kedge-Host: %s\n", oneLine(o.Host))
	}
	fmt.Fprintf(&b, "Kedge-Files: %d\n", r.Files)
	fmt.Fprintf(&b, "Kedge-Bytes: %d\n", r.Bytes)
	fmt.Fprintf(&b, "Kedge-Unreadable: %d\n", r.Unreadable)
	return b.String()
}

func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' {
			return -1
		}
		return r
	}, s)
}
