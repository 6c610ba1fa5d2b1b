package s3sync

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/kedgebackup/kedge/repo"
)

// CredentialOptions says where credentials are looked for.
type CredentialOptions struct {
	Profile string // of the shared files; "": AWS_PROFILE, default
	// Metadata is where an instance is told of its role; "": Amazon's address of it, or what
	// a container was given in its environment.
	Metadata string
	NoRole   bool // the role of the instance is not asked for
}

// Shared are settings that AWS tools share in a file.
type Shared struct{ Region, Endpoint string }

// ParseShared reads what a shared config file (~/.aws/config) says of a profile:
//
//	[profile NAME]
//	region = eu-central-1
//	endpoint_url = https://s3.example.org
//
// The profile "default" may stand without the word. Lines that are indented belong to a setting
// of another service and are passed over, like all that is not known.
func ParseShared(text []byte, profile string) (s Shared) {
	here := false
	for line := range strings.Lines(string(text)) {
		if name, ok := strings.CutPrefix(line, "["); ok {
			name, _, _ = strings.Cut(name, "]")
			words := strings.Fields(name)
			here = len(words) == 2 && words[0] == "profile" && words[1] == profile ||
				len(words) == 1 && words[0] == "default" && profile == "default"
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		if !here || !ok || strings.HasPrefix(line, " ") || strings.HasPrefix(line, "\t") {
			continue
		}
		switch value = strings.TrimSpace(value); strings.TrimSpace(name) {
		case "region":
			s.Region = value
		case "endpoint_url":
			s.Endpoint = value
		}
	}
	return s
}

// roleTimeout is how long an instance is asked for its role. Where there is none, the address
// often leads nowhere.
const roleTimeout = 5 * time.Second

// Credentials returns those of the usual places, in the order of AWS tools: the environment,
// the shared files (AWS_PROFILE, AWS_SHARED_CREDENTIALS_FILE, AWS_CONFIG_FILE), the role of the
// container or the instance.
func Credentials(o CredentialOptions) *credentials.Credentials {
	places := []place{{"the environment", &credentials.EnvAWS{}}, {"the shared files", &credentials.FileAWSCredentials{Profile: o.Profile}}}
	if !o.NoRole {
		places = append(places, place{"the role of the instance", &credentials.IAM{
			Endpoint: strings.TrimSuffix(o.Metadata, "/"), Client: &http.Client{Timeout: roleTimeout},
		}})
	}
	return credentials.New(&usual{places: places})
}

// place is where credentials may be.
type place struct {
	name string
	credentials.Provider
}

// usual is the first of several places that has credentials. The library's own chain asks
// without any when there are none, which the store then refuses without saying why.
type usual struct {
	places []place
	found  credentials.Provider
}

// Retrieve returns credentials.
func (u *usual) Retrieve() (credentials.Value, error) { return u.RetrieveWithCredContext(nil) }

// RetrieveWithCredContext returns credentials.
func (u *usual) RetrieveWithCredContext(c *credentials.CredContext) (credentials.Value, error) {
	var why []string
	for _, p := range u.places {
		v, err := p.RetrieveWithCredContext(c)
		if err == nil && (v.AccessKeyID == "" || v.SecretAccessKey == "") {
			err = errors.New("none")
		}
		if err == nil {
			u.found = p.Provider
			return v, nil
		}
		why = append(why, fmt.Sprintf("%s: %v", p.name, err))
	}
	return credentials.Value{}, &repo.ConfigError{Reason: "no credentials for the object store (" + strings.Join(why, "; ") + ")"}
}

// IsExpired reports whether credentials have to be looked for again.
func (u *usual) IsExpired() bool { return u.found == nil || u.found.IsExpired() }
