package operator

import "time"

const (
	// defaultTimeout bounds a whole fetch.
	defaultTimeout = 30 * time.Second
	// maxCertificate bounds what a directory may answer. A certificate with RSA 4096 has about 2 KiB in PEM.
	maxCertificate = 64 << 10
	// maxRedirects bounds redirects within the directory.
	maxRedirects = 3
	// maxHeader bounds the header of the directory's answer.
	maxHeader = 64 << 10
	// maxConfiguration bounds what is encrypted at once.
	maxConfiguration = 1 << 30
	// leftoverAge is when what a killed process left in Config.Dir is removed. Nothing that is under way is that old: it is
	// one small file.
	leftoverAge = time.Hour
	// maxURL bounds Config.URL.
	maxURL = 2048
)
