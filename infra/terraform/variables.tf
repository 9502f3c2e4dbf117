variable "name" {
  description = "Prefix of all names. Bucket names are the same for the whole world, so choose one of your own."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9-]{2,40}$", var.name))
    error_message = "Up to 41 small letters, digits and hyphens, as bucket names have."
  }
}

variable "prefix" {
  description = "Only objects below this prefix of the bucket are told of and can be read; empty for all."
  type        = string
  default     = ""
}

variable "oidc_provider_arn" {
  description = "The IAM OIDC provider of the Kubernetes cluster; empty makes the policy and no role."
  type        = string
  default     = ""
}

variable "service_account" {
  description = "Namespace and name of the service account that takes the role."
  type        = string
  default     = "dropmill:dropmill"
}

variable "visibility_timeout_s" {
  description = "For so long a message is invisible to others; the service extends it while it works."
  type        = number
  default     = 120
}

variable "max_receive_count" {
  description = "A message that came so often without a commit goes to the dead letters."
  type        = number
  default     = 6
}
