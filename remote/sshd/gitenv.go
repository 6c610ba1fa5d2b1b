package sshd

import "golang.org/x/crypto/ssh"

// gitProtocol returns the value of the one variable that a client may set, GIT_PROTOCOL, if
// it is the one that means anything here; else "".
func gitProtocol(r *ssh.Request) string {
	var v struct{ Name, Value string }
	if r.Type != "env" || ssh.Unmarshal(r.Payload, &v) != nil || v.Name != "GIT_PROTOCOL" || v.Value != "version=1" {
		return ""
	}
	return v.Value
}
