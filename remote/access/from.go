package access

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// fromList is the value of from="…": patterns of the addresses that a key may come from.
// One that begins with ! and matches decides against, wherever it stands; else one that
// matches decides for. Names of hosts are not looked up, as OpenSSH does not by default,
// and a pattern that can only be one is refused, lest a rule stand there that does
// nothing.
type fromList []fromPattern

type fromPattern struct {
	not    bool
	prefix netip.Prefix // if valid
	glob   string       // else
}

func parseFrom(s string) (fromList, error) {
	var list fromList
	for text := range strings.SplitSeq(s, ",") {
		var p fromPattern
		glob, not := strings.CutPrefix(text, "!")
		p.not = not
		switch addr, err := netip.ParseAddr(glob); {
		case err == nil && addr.Zone() == "":
			p.prefix = netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen())
		case strings.ContainsRune(glob, '/'):
			prefix, err := netip.ParsePrefix(glob)
			if err != nil || prefix != prefix.Masked() || prefix.Addr().Is4In6() {
				return nil, fmt.Errorf("%s is no network", strconv.Quote(text))
			}
			p.prefix = prefix
		case glob == "" || strings.Trim(glob, "0123456789abcdef.:*?") != "":
			return nil, fmt.Errorf("%s is no pattern of addresses", strconv.Quote(text))
		default:
			p.glob = glob
		}
		list = append(list, p)
	}
	for _, p := range list {
		if !p.not {
			return list, nil
		}
	}
	return nil, errors.New("nobody matches it")
}

// match reports whether a key may come from an address. No address is matched by nothing.
func (l fromList) match(addr netip.Addr) bool {
	if !addr.IsValid() {
		return false
	}
	addr = addr.Unmap().WithZone("")
	found := false
	for _, p := range l {
		hit := p.prefix.IsValid() && p.prefix.Contains(addr) || p.glob != "" && wildcard(p.glob, addr.String())
		if hit && p.not {
			return false
		}
		found = found || hit
	}
	return found
}

// wildcard matches a text with a pattern in which * is any text and ? one character. It
// goes back only to the last *, so it takes at most the product of the two lengths.
func wildcard(pattern, s string) bool {
	star, mark := -1, 0
	p, i := 0, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, i
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == s[i]):
			p++
			i++
		case star >= 0:
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
