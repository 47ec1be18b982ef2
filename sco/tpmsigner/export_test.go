package tpmsigner

// SplitCertificates is for the fuzz target.
var SplitCertificates = splitCertificates
