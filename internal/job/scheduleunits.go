package job

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// sandbox is what a service is kept from.
type sandbox struct {
	strict bool     // what it does is known: it reads, and writes below these directories
	caps   string   // all that it may do as root; "" with a user: nothing
	writes []string // directories
	home   bool     // it works below /home or /root
	mail   bool     // sendmail has to get the rights of its group, and its spool
	needs  string   // directory without which there is nothing to do
}

// jobSandbox is that of a job. What hooks and dumps do nobody knows: they stop databases,
// mount snapshots that others have to see, become other users. A job without them reads
// everything and writes its own state, and is held to that.
func jobSandbox(c *Config, j *Job) sandbox {
	plain := len(j.Streams) == 0
	for _, p := range j.Parts {
		plain = plain && len(p.Streams) == 0
	}
	h := &j.Hooks
	plain = plain && len(h.Before)+len(h.Snapshot)+len(h.Resume)+len(h.After)+len(h.Finally) == 0
	remote := strings.Contains(j.Repository, "://") || strings.Contains(strings.SplitN(j.Repository, "/", 2)[0], ":")
	if !plain || !remote {
		return sandbox{}
	}
	b := sandbox{strict: true, caps: "CAP_DAC_READ_SEARCH CAP_FOWNER CAP_SYS_NICE", writes: []string{c.State, "-/var/cache/kedge"}}
	b.tells(j.Notify)
	return b
}

// serverSandbox is that of the tasks of a server.
func serverSandbox(v *Server) sandbox {
	b := sandbox{strict: true, writes: []string{v.Root}}
	for _, top := range []string{"/home/", "/root/", "/run/user/"} {
		b.home = b.home || strings.HasPrefix(filepath.Clean(v.Root)+"/", top)
	}
	b.tells(v.Notify)
	return b
}

// tells lets a service tell those whom the config names.
func (b *sandbox) tells(n *Notify) {
	if n == nil {
		return
	}
	if n.Textfile != "" {
		b.writes = append(b.writes, n.Textfile)
	}
	if len(n.Mail) > 0 {
		b.mail = true
		b.writes = append(b.writes, "-/var/spool")
	}
}

// service is the text of a service.
func (s *Scheduler) service(e *Entry) string {
	var b strings.Builder
	b.WriteString(madeBy)
	fmt.Fprintf(&b, "\n[Unit]\nDescription=Kedge: %s\nDocumentation=https://github.com/kedgebackup/kedge\n", escapeUnit(e.Name))
	if e.guard.needs != "" {
		fmt.Fprintf(&b, "ConditionDirectoryNotEmpty=%s\nAfter=local-fs.target\n", escapeUnit(e.guard.needs))
	} else {
		b.WriteString("Wants=network-online.target\nAfter=network-online.target\n")
	}
	if e.User == s.Server && len(e.guard.writes) > 0 && e.guard.caps == "" {
		fmt.Fprintf(&b, "RequiresMountsFor=%s\n", quoteUnit(e.guard.writes[0]))
	}
	fmt.Fprintf(&b, "\n[Service]\nType=oneshot\nExecStart=%s\n", s.command(e.Args))
	if len(e.after) > 0 {
		fmt.Fprintf(&b, "# However it ended: what its hooks have stopped is started again.\nExecStopPost=%s\n", s.command(e.after))
	}
	if e.User != "root" {
		fmt.Fprintf(&b, "User=%s\n", escapeUnit(e.User))
	}
	if e.guard.caps == "" && e.guard.strict {
		b.WriteString("# AWS_ACCESS_KEY_ID and the like, if it mirrors; mode 0600.\nEnvironmentFile=-/etc/kedge/environment\n")
	}
	// The first signal asks kedge alone, which sees to its children.
	b.WriteString("TimeoutStartSec=infinity\nTimeoutStopSec=15min\nKillMode=mixed\nUMask=0077\nLimitCORE=0\nLimitNOFILE=65536\n")
	b.WriteString("LockPersonality=yes\nRestrictRealtime=yes\nKeyringMode=private\nSystemCallArchitectures=native\n")
	if e.guard.strict {
		b.WriteString(e.guard.text())
	}
	if len(e.When) == 0 {
		b.WriteString("\n[Install]\nWantedBy=multi-user.target\n")
	}
	return b.String()
}

// text is what a service is kept from whose doings are known. Where sendmail is called
// nothing may stand that implies NoNewPrivileges.
func (b *sandbox) text() string {
	var t strings.Builder
	t.WriteString("\nProtectSystem=strict\n")
	for _, dir := range b.writes {
		optional := ""
		if rest, ok := strings.CutPrefix(dir, "-"); ok {
			optional, dir = "-", rest
		}
		fmt.Fprintf(&t, "ReadWritePaths=%s\n", quoteUnit(optional+dir))
	}
	switch {
	case b.caps != "": // a job reads homes and /tmp, and devices by name
	case b.home:
		t.WriteString("ProtectHome=read-only\nPrivateTmp=yes\n")
	default:
		t.WriteString("ProtectHome=yes\nPrivateTmp=yes\n")
	}
	t.WriteString("ProtectControlGroups=yes\n")
	if b.mail {
		return t.String()
	}
	if b.caps == "" {
		t.WriteString("PrivateDevices=yes\nProtectClock=yes\n")
	}
	fmt.Fprintf(&t, "NoNewPrivileges=yes\nCapabilityBoundingSet=%s\nAmbientCapabilities=\n", b.caps)
	t.WriteString("ProtectKernelTunables=yes\nProtectKernelModules=yes\nProtectKernelLogs=yes\nRestrictSUIDSGID=yes\nRestrictNamespaces=yes\n" +
		"RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6\nMemoryDenyWriteExecute=yes\nSystemCallFilter=@system-service\nSystemCallErrorNumber=EPERM\n")
	return t.String()
}

// timer is the text of a timer.
func (s *Scheduler) timer(e *Entry) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n[Unit]\nDescription=Kedge: when to %s\n\n[Timer]\n", madeBy, escapeUnit(e.Name))
	for _, w := range e.When {
		fmt.Fprintf(&b, "OnCalendar=%s\n", w)
	}
	// What was slept through is made up for.
	fmt.Fprintf(&b, "Persistent=true\nRandomizedDelaySec=%d\nAccuracySec=1min\n\n[Install]\nWantedBy=timers.target\n", int64(e.Jitter/time.Second))
	return b.String()
}

// command is a command line of a unit.
func (s *Scheduler) command(args []string) string {
	words := []string{s.Program}
	for _, a := range args {
		words = append(words, quoteUnit(strings.ReplaceAll(a, "$", "$$")))
	}
	return strings.Join(words, " ")
}

// escapeUnit keeps systemd from reading specifiers in a text.
func escapeUnit(s string) string { return strings.ReplaceAll(s, "%", "%%") }

// quoteUnit writes a word for systemd.
func quoteUnit(s string) string {
	s = escapeUnit(s)
	if s != "" && !strings.ContainsAny(s, " \t\"'\\;") {
		return s
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// crontab is the text of the file for cron.
func (s *Scheduler) crontab(list []Entry) (string, error) {
	var b strings.Builder
	b.WriteString(madeBy)
	b.WriteString("SHELL=/bin/sh\nPATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n\n")
	for i := range list {
		e := &list[i]
		words := []string{quoteShell(s.Program)}
		for _, a := range e.Args {
			words = append(words, quoteShell(a))
		}
		line := strings.ReplaceAll(strings.Join(words, " "), "%", `\%`)
		times := []string{"@reboot"}
		if len(e.When) > 0 {
			times = nil
		}
		for _, w := range e.When {
			t, err := w.Cron()
			if err != nil {
				return "", fmt.Errorf("%s: %w", e.Name, err)
			}
			times = append(times, t)
		}
		for _, t := range slices.Compact(times) {
			fmt.Fprintf(&b, "%s  %s  %s\n", t, e.User, line)
		}
	}
	return b.String(), nil
}

// quoteShell writes a word for a shell.
func quoteShell(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-:+@") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
